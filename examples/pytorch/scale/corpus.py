# SPDX-License-Identifier: MIT
"""Corpora that prepare.py wrote, their windows for evaluation, and which targets repeat an earlier bigram of their window."""
import hashlib, json, lzma
import numpy as np
import torch

RARE = 2.0 ** -17                              # a bigram is rare if it is no larger a share of the training text's bigrams
DISTANCES = (1, 64, 256, 1024, 2048, 4096, 16384)   # bins of the tokens since the bigram was seen last


class Corpus:
    def __init__(self, path, device='cpu'):
        """`path` is FOLDER/NAME, without the endings of its files."""
        with open(f'{path}.json') as f: facts = json.load(f)
        with open(f'{path}.tokens.xz', 'rb') as f: data = lzma.decompress(f.read())
        if hashlib.sha256(data).hexdigest() != facts['sha256']: raise ValueError(f'{path}.tokens.xz is not what {path}.json describes')
        tokens, at, parts = np.frombuffer(data, '<u2').astype(np.int32), 0, {}
        for part, n in facts['parts'].items(): parts[part], at = tokens[at:at + n], at + n
        self.name, self.vocabulary, self.device, self.facts = facts['name'], facts['vocabulary'], device, facts
        self.sources = [p[len('train_'):] for p in parts if p.startswith('train_')]
        self.train = torch.from_numpy(np.concatenate([parts[f'train_{s}'] for s in self.sources]).astype(np.int16 if self.vocabulary < 2 ** 15 else np.int32)).to(device)
        self.held_out = {}                     # part -> (tokens, index of the first target): with earlier text before it
        for s in self.sources:
            before = parts[f'train_{s}']
            for part in ('validation', 'test'):
                lead = before[-facts['lead']:]
                self.held_out[f'{part}_{s}'] = (np.concatenate([lead, parts[f'{part}_{s}']]), len(lead))
                before = parts[f'{part}_{s}']

    def windows(self, which, context, lead, most=None):
        """part -> [n, context + 1]. Every target of a part is the last `context - lead` of one window; `most` of them, spread."""
        result = {}
        for part, (text, first) in self.held_out.items():
            if not part.startswith(which): continue
            starts = np.arange(max(0, first - lead - 1), len(text) - context, context - lead)
            if most and len(starts) > most: starts = starts[np.linspace(0, len(starts) - 1, most).astype(int)]
            result[part] = text[starts[:, None] + np.arange(context + 1)] if len(starts) else np.zeros((0, context + 1), np.int32)
        return result

    def long_windows(self, which, length, most):
        """part -> [n, length + 1], from the part's first token on, without overlap."""
        result = {}
        for part, (text, first) in self.held_out.items():
            if not part.startswith(which): continue
            starts = np.arange(first, len(text) - length, length)[:most]
            if len(starts): result[part] = text[starts[:, None] + np.arange(length + 1)]
        return result

    def is_rare(self):
        """[vocabulary^2] of bool: whether a bigram is rare in the training text."""
        V, n = self.vocabulary, len(self.train) - 1
        counts = torch.zeros(V * V, dtype=torch.int32, device=self.device)
        for i in range(0, n, 1 << 24):
            x = self.train[i:min(i + (1 << 24), n) + 1].long()
            codes, times = (x[:-1] * V + x[1:]).unique(return_counts=True)
            counts[codes] += times.int()
        return (counts <= max(1, RARE * n)).cpu().numpy()


def distances(windows, vocabulary):
    """[n, T + 1] -> [n, T]: tokens since target t's bigram (token t, its target) was seen last in the window; 0: it was not."""
    codes = windows[:, :-1].astype(np.int64) * vocabulary + windows[:, 1:]
    order = codes.argsort(1, kind='stable')
    ordered = np.take_along_axis(codes, order, 1)
    gaps = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, 1:] - order[:, :-1], 0)
    result = np.zeros_like(codes)
    np.put_along_axis(result, order[:, 1:], gaps, 1)
    return result


def groups(windows, vocabulary, rare):
    """name -> [n, T] of bool: `new` bigrams, `common` ones seen before, rare ones seen before by distance."""
    distance = distances(windows, vocabulary)
    is_rare = rare[windows[:, :-1].astype(np.int64) * vocabulary + windows[:, 1:]]
    result = {'new': distance == 0, 'common': (distance > 0) & ~is_rare}
    for a, b in zip(DISTANCES, DISTANCES[1:]): result[f'rare_{a}'] = is_rare & (distance >= a) & (distance < b)
    return result


def position_bins(length):
    """[0, 64), [64, 128), [128, 256), ... as (begin, end), as the C++ program has them."""
    bins, begin, end = [], 0, min(64, length)
    while begin < length:
        bins.append((begin, end))
        begin, end = end, min(2 * end, length)
    return bins
