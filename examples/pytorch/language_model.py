# SPDX-License-Identifier: MIT
"""The language model of the C++ example, with Gaussian mixture attention:

    x = sqrt(D) E[tokens];   L times:  x = x + mixer(norm(x)),  x = x + mlp(norm(x));   logits = norm(x) E^T

Parameters have the names of the C++ model's files, which save_model() and load_model() write and read."""
from __future__ import annotations

import dataclasses
import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import safetensors_file
from gma_layer import AttentionLayer, LayerConfig, unit_rms

FORMAT = "gma language model 1"


@dataclasses.dataclass
class ModelConfig:
    """The members of the C++ ModelConfig, some of which are for mixers that this model lacks."""

    mixer: str = "gma"  # or "gma-plain": one mixture per head, nothing forgotten, no convolution
    mlp: str = "gated"  # silu(gate) * up; or "plain": relu(up)^2
    is_causal: bool = True
    vocabulary: int = 256
    layers: int = 2
    width: int = 96  # D
    heads: int = 2
    mlp_width: int = 256  # 0: no MLP
    components: list[int] = dataclasses.field(default_factory=lambda: [8, 8])
    plain_components: int = 64  # gma-plain: instead of components
    convolution: int = 0  # taps; 1: none; 0: four
    has_forgetting: bool = True
    slot_forgetting: int = 0  # rank of the forgetting of every slot; 0: none
    gma_window: int = 0  # tokens of exact attention
    has_positions: bool = False  # of other mixers
    has_output_norm: bool = True
    has_output_gate: bool = True  # silu
    has_unit_queries: bool = False  # of other mixers
    window: int = 64  # of other mixers
    cache: int = 0  # of other mixers
    state: int = 64  # of other mixers
    mamba_head: int = 32  # of other mixers
    forgetting_fastest: float = 1 / 16  # of the heads' initial rates of forgetting
    forgetting_slowest: float = 1 / 128

    def layer(self) -> LayerConfig:
        if self.mixer not in ("gma", "gma-plain") or not self.is_causal:
            raise ValueError(f"ModelConfig: a model of the mixer {self.mixer} is not here, expected a causal gma or gma-plain")
        if self.has_positions:
            raise ValueError("ModelConfig: has_positions is true, and a model with positions is not here, expected false")
        is_plain = self.mixer == "gma-plain"
        return LayerConfig(
            width=self.width, heads=self.heads, components=[self.plain_components] if is_plain else self.components,
            window=0 if is_plain else self.gma_window, convolution=1 if is_plain else self.convolution or 4,
            has_forgetting=self.has_forgetting and not is_plain,
            slot_forgetting_rank=0 if is_plain else self.slot_forgetting,
            has_output_norm=self.has_output_norm and not is_plain, has_output_gate=self.has_output_gate and not is_plain,
            shortest_time=1 / self.forgetting_fastest, longest_time=1 / self.forgetting_slowest)


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * unit_rms(x)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, is_gated: bool):
        super().__init__()
        self.is_gated = is_gated
        self.expand = nn.Linear(width, 2 * hidden if is_gated else hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.expand.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        if not self.is_gated:
            return self.down(F.relu(x).square())
        gate, up = x.chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Branches start at zero: a new block is the identity."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm_mixer = RmsNorm(config.width)
        self.mixer = AttentionLayer(config.layer())
        nn.init.zeros_(self.mixer.output.weight)
        self.mlp = None
        if config.mlp_width > 0:
            self.norm_mlp = RmsNorm(config.width)
            self.mlp = Mlp(config.width, config.mlp_width, config.mlp == "gated")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm_mixer(x))
        return x if self.mlp is None else x + self.mlp(self.norm_mlp(x))


class LanguageModel(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=0.5 / math.sqrt(config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_output = RmsNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [..., T] -> logits [..., T, vocabulary] of the token after each."""
        x = self.embedding(tokens) * math.sqrt(self.config.width)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm_output(x), self.embedding.weight)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[..., T, vocabulary] and [..., T] -> [..., T], in nats."""
    return torch.logsumexp(logits, -1) - logits.gather(-1, targets[..., None])[..., 0]


def group_of(name: str) -> str:
    """How the optimiser treats a parameter: "mixture", "matrix" or "vector"."""
    if ".mixtures." in name:
        return "mixture"
    return "matrix" if name.endswith(".weight") else "vector"


def save_model(path, config: ModelConfig, parameters: dict[str, Tensor]) -> None:
    """A file that the C++ program evaluates and samples from."""
    metadata = {"format": "pt", "gma_format": FORMAT, "config": json.dumps(dataclasses.asdict(config))}
    safetensors_file.write(path, parameters, metadata)


def load_model(path) -> LanguageModel:
    """The model of a file of save_model() or of the C++ program. What only its training needs is left out."""
    tensors, metadata = safetensors_file.read(path)
    if metadata.get("gma_format", FORMAT) != FORMAT:
        raise ValueError(f"{path} has the format {metadata['gma_format']}, expected {FORMAT}")
    model = LanguageModel(ModelConfig(**json.loads(metadata["config"])))
    model.load_state_dict({name: values for name, values in tensors.items() if not name.startswith("moments.")})
    return model
