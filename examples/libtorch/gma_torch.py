# SPDX-License-Identifier: MIT
"""gma's attention and attention layer for PyTorch on the CPU, computed by gma.

Letters in shapes: B entries of N tokens, H key heads, Hq query heads, d and e columns of a head's queries and values, D
columns of a layer, K components of a factor. GMA_TORCH_LIBRARY names the library; else it is sought beside this file and
in build/."""
import os
from pathlib import Path

import torch
from torch import Tensor, nn

_here, _name = Path(__file__).parent, "libgma_torch.so"
_path = os.environ.get("GMA_TORCH_LIBRARY") or next((p for p in (_here / _name, _here / "build" / _name) if p.exists()), _name)
torch.ops.load_library(str(_path))


class Attention(nn.Module):
    """Gaussian mixture attention of heads: takes the place of F.scaled_dot_product_attention(q, k, v, is_causal=True).

    A product mixture of diagonal Gaussians per key head, whose factors share d equally and have `components` each. They
    start as gma::random_mixture() starts them, for tokens of unit root mean square."""

    def __init__(self, heads: int, width: int, components=(8, 8), is_causal: bool = True, normalization: str = "slot"):
        super().__init__()
        self.is_causal, self.normalization = is_causal, normalization
        w, mixtures = width // len(components), []
        for k in components:
            mixtures += [torch.zeros(heads, k), torch.randn(heads, k, w), torch.zeros(heads, k, w)]
            mixtures += [torch.full((heads,), w).log() / 2]
        self.mixtures = nn.ParameterList([nn.Parameter(p) for p in mixtures])

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, log_forgetting: Tensor = None) -> Tensor:
        """queries [B, Hq, N, d], keys [B, H, N, d], values [B, H, N, e], log_forgetting [B, H, N] <= 0 -> [B, Hq, N, e]"""
        return torch.ops.gma.attention(queries, keys, values, list(self.mixtures), log_forgetting, self.is_causal,
                                       self.normalization)


class AttentionLayer(nn.Module):
    """gma::AttentionLayer in float or double. Its state_dict has the names and shapes of gma's files.

    Parameters are views of the numbers of a gma::AttentionLayer, so every optimiser steps that layer. Give them new values
    by copy_() or load_state_dict(); to() and assign=True would make other tensors of them, which forward() refuses."""

    def __init__(self, width: int, heads: int = 1, key_value_heads: int = 0, components=(8, 8), is_causal: bool = True,
                 convolution: int = 4, has_forgetting: bool = True, slot_forgetting_rank: int = 0, window: int = 0,
                 has_output_norm: bool = True, has_output_gate: bool = True, seed: int = 1, dtype=torch.float32):
        super().__init__()
        kinds = {torch.float32: "AttentionLayerFloat", torch.float64: "AttentionLayerDouble"}
        if dtype not in kinds:
            raise TypeError(f"AttentionLayer: dtype is {dtype}, expected float32 or float64")
        self.layer = getattr(torch.classes.gma, kinds[dtype])(
            width, heads, key_value_heads, list(components), is_causal, convolution, has_forgetting, slot_forgetting_rank,
            window, has_output_norm, has_output_gate, seed)
        self.names = []
        for name, values in self.layer.parameters():
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(values))
            self.names.append(name)

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, D] -> [..., N, D]"""
        return self.layer.forward(x, [self.get_parameter(name) for name in self.names])
