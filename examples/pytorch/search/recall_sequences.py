# SPDX-License-Identifier: MIT
"""Multi-query associative recall after Zoology: its sequences."""
import torch


def recall_sequences(n, T, pairs, vocabulary, gen, quiet=False):
    """inputs, targets [n, T]; targets are -100 except where a key is asked. Keys are of the lower half of the vocabulary, values of
    the upper one; the questions come at gaps from a power law, between random tokens or, where `quiet`, between zeros."""
    half, device = vocabulary // 2, gen.device
    keys = torch.rand(n, half - 1, generator=gen, device=device).argsort(1)[:, :pairs] + 1
    values = torch.rand(n, half, generator=gen, device=device).argsort(1)[:, :pairs] + half
    x = torch.randint(1, vocabulary, (n, T), generator=gen, device=device) * (0 if quiet else 1)
    y = torch.full((n, T), -100, device=device)
    x[:, 0:2 * pairs:2], x[:, 1:2 * pairs:2] = keys, values
    weights = torch.arange(1, (T - 2 * pairs) // 2 + 1, device=device).double() ** (0.01 - 1)
    at = 2 * pairs + 2 * torch.multinomial(weights.float().expand(n, -1), pairs, generator=gen)
    return x.scatter_(1, at, keys).short(), y.scatter_(1, at, values).short()
