# SPDX-License-Identifier: MIT
"""What the programs of this folder use and PyTorch before 2.0 lacks. For tests on a CPU: slow, and without compilation."""
import math
import torch
import torch.nn.functional as F


def attend(q, k, v, attn_mask=None, is_causal=False):
    if is_causal: attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~attn_mask, -math.inf).softmax(-1) @ v


def copy_all(to, new):
    for a, b in zip(to, new): a.copy_(b)


if not hasattr(F, 'scaled_dot_product_attention'): F.scaled_dot_product_attention = attend
if not hasattr(torch, '_foreach_copy_'): torch._foreach_copy_ = copy_all
