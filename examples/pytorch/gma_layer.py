# SPDX-License-Identifier: MIT
"""The attention layer of gma/layer/layer.hpp as a PyTorch module: any device and floating type, with autograd.

Letters in shapes: N tokens, D columns of a token, H key heads of G query heads each, d and e columns of a head's queries
and values, K slots, C tokens of a chunk. "..." is any number of leading dimensions, such as a batch.

Parameters have the names that gma's files have: load_layer() and save_layer() read and write what gma::io::write_layer()
writes and gma::io::read_layer() reads."""
from __future__ import annotations

import dataclasses
import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import safetensors_file

TINY = 2.0**-40  # under every division by a mass


@dataclasses.dataclass
class LayerConfig:
    """The members of gma::LayerConfig. Zeros stand for what follows from the rest."""

    width: int = 0  # D
    heads: int = 1  # of queries: G H
    key_value_heads: int = 0  # H, which divides heads; 0: as many
    head_width: int = 0  # d; 0: width / heads
    value_width: int = 0  # e; 0: head_width
    components: list[int] = dataclasses.field(default_factory=lambda: [8, 8])  # slots of each factor, which share d
    is_causal: bool = True  # else bidirectional
    normalization: str = "slot"  # or "row" or "none"
    convolution: int = 4  # taps; 1: none
    has_forgetting: bool = True  # causal layers only
    slot_forgetting_rank: int = 0  # R: numbers of a token and key head that make every slot forget; causal layers only
    window: int = 0  # tokens of exact attention; causal layers only
    has_output_norm: bool = True
    has_output_gate: bool = True
    gate_activation: str = "silu"  # or "sigmoid": of the output gate
    shortest_time: float = 16.0  # time constants in tokens that the forgetting starts from
    longest_time: float = 512.0

    @property
    def key_heads(self) -> int:  # H
        return self.key_value_heads or self.heads

    @property
    def widths(self) -> tuple[int, int]:  # d, e
        d = self.head_width or self.width // self.heads
        return d, self.value_width or d

    def __post_init__(self):
        d = self.widths[0]
        if self.heads % self.key_heads or (not self.head_width and self.width % self.heads):
            raise ValueError("LayerConfig: heads must be a multiple of key_value_heads, and width of heads")
        if d < 1 or d % len(self.components):
            raise ValueError(f"LayerConfig: the head width {d} must be a multiple of the {len(self.components)} components")
        if not self.is_causal and (self.has_forgetting or self.slot_forgetting_rank or self.window):
            raise ValueError("LayerConfig: has_forgetting, slot_forgetting_rank and window are for causal layers only")
        if self.window and d % 2:
            raise ValueError(f"LayerConfig: the head width {d} must be even for a window")
        if self.normalization not in ("slot", "row", "none") or self.gate_activation not in ("sigmoid", "silu"):
            raise ValueError("LayerConfig: normalization is slot, row or none, and gate_activation sigmoid or silu")

    def to_json(self) -> str:
        members = dataclasses.asdict(self)
        if not (self.has_output_gate and self.gate_activation == "silu"):  # a file without this member means the rest
            del members["gate_activation"]
        if not self.slot_forgetting_rank:
            del members["slot_forgetting_rank"]
        return json.dumps(members)

    @staticmethod
    def from_json(text: str) -> LayerConfig:
        return LayerConfig(**{"gate_activation": "sigmoid", **json.loads(text)})


class Projection(nn.Module):
    """x W^T + b where there is a bias; then a filter per channel, whose last tap is for the present token."""

    def __init__(self, inputs: int, outputs: int, taps: int = 1, bias: Tensor | None = None, scale: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * scale / math.sqrt(inputs))
        self.bias = None if bias is None else nn.Parameter(bias)
        self.filter = None if taps == 1 else nn.Parameter(0.2 * torch.randn(outputs, taps) + torch.eye(taps)[-1])

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(x, self.weight, self.bias)
        if self.filter is None:
            return z
        taps, n = self.filter.shape[1], z.shape[-2]
        past = F.pad(z, (0, 0, taps - 1, 0))
        return sum(past[..., i : i + n, :] * self.filter[:, i] for i in range(taps))


class Mixture(nn.Module):
    """K Gaussians in d dimensions: log pi_k, mu_k, the logarithms of deviations, and log tau."""

    def __init__(self, slots: int, d: int, covariance: str):
        super().__init__()
        shapes = {"diagonal": (slots, d), "isotropic": (slots, 1), "tied": (1, d), "full": (slots, d * d)}
        self.weight_logits = nn.Parameter(torch.zeros(slots))
        self.means = nn.Parameter(torch.randn(slots, d))
        self.log_scales = nn.Parameter(torch.zeros(shapes[covariance]))
        self.log_temperature = nn.Parameter(torch.tensor(0.5 * math.log(d)))


def unit_rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def posterior(x: Tensor, mixtures: list[Mixture], covariance: str) -> Tensor:
    """x [..., H, G, N, d], a mixture per key head -> [..., H, G, N, K]: softmax of (log pi_k + log Normal(x; k)) / tau."""
    names = ("weight_logits", "means", "log_scales", "log_temperature")
    log_pi, mu, s, log_tau = (torch.stack([getattr(m, name) for m in mixtures])[:, None] for name in names)  # [H, 1, ...]
    if covariance == "full":  # s are the factors L of the precisions L L^T, their diagonals as logarithms
        entries = s.unflatten(-1, (x.shape[-1], -1))
        log_diagonal = entries.diagonal(dim1=-2, dim2=-1)
        lower = entries.tril(-1) + torch.diag_embed(log_diagonal.exp())  # [H, 1, K, d, d]
        z = (x[..., None, None, :] - mu[:, :, None, :, None, :]) @ lower[:, :, None]  # [..., H, G, N, K, 1, d]
        log_normal = log_diagonal.sum(-1)[:, :, None] - z.square().sum((-2, -1)) / 2
    else:
        s = s.expand_as(mu)
        precision = torch.exp(-2 * s)
        constant = (precision * mu.square() / 2 + s).sum(-1)
        log_normal = x @ (precision * mu).mT - x.square() @ (precision / 2).mT - constant[:, :, None]
    return torch.softmax((log_pi[:, :, None] + log_normal) * torch.exp(-log_tau)[..., None, None], -1)


def coefficients(r_q: Tensor, mass: Tensor, normalization: str) -> Tensor:
    """Of the slots' sums in an output: r / m_k (slot), r / sum_k r_k m_k (row), r (none)."""
    if normalization == "slot":
        return r_q / mass.clamp(min=TINY)
    return r_q / (r_q * mass).sum(-1, keepdim=True).clamp(min=TINY) if normalization == "row" else r_q


def log_decays(g: Tensor) -> Tensor:
    """g [..., C] -> [..., C, C]: sum of g_l over j < l <= i, and -inf where j > i. Only sums of g <= 0, never differences:
    exact beside a strong forgetting, -inf included."""
    c = g.shape[-1]
    lower = torch.ones(c, c, dtype=torch.bool, device=g.device).tril()
    terms = g[..., None].expand(*g.shape, c).masked_fill(~lower.tril(-1), 0)
    return terms.cumsum(-2).masked_fill(~lower, -math.inf)


def causal_attention(r_q: Tensor, r_k: Tensor, v: Tensor, g: Tensor, normalization: str, chunk: int = 64) -> Tensor:
    """Token by token, M = exp(g_t) M + r_k v^T and m = exp(g_t) m + r_k, then y_t = sum_k c_k M_k. Here in chunks: what a
    chunk writes and reads itself by products, and a loop over chunks for M [K, e] and m [K], side by side, before each.
    r [..., N, K], v [..., N, e], g [..., N] -> [..., N, e]."""
    n = v.shape[-2]
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    r_q, r_k, v = (F.pad(z, (0, 0, 0, -n % chunk)).unflatten(-2, (-1, chunk)) for z in (r_q, r_k, v))
    g = F.pad(g, (0, -n % chunk)).unflatten(-1, (-1, chunk))
    decay, since_begin = torch.exp(log_decays(g)), torch.exp(g.cumsum(-1))[..., None]
    written = (r_k * decay[..., -1, :, None]).mT @ v
    memory, memories = torch.zeros_like(written[..., 0, :, :]), []
    for kept, new in zip(since_begin[..., -1:, :].unbind(-3), written.unbind(-3)):
        memories.append(memory)
        memory = kept * memory + new
    before = torch.stack(memories, -3)  # [..., N / C, K, e + 1]
    mass = decay @ r_k + since_begin * before[..., None, :, -1]
    c = coefficients(r_q, mass, normalization)
    y = (c @ r_k.mT * decay) @ v[..., :-1] + since_begin * (c @ before[..., :-1])
    return y.flatten(-3, -2)[..., :n, :]


def causal_attention_by_slot(r_q: Tensor, r_k: Tensor, v: Tensor, s: Tensor, normalization: str,
                             chunk: int = 32) -> Tensor:
    """causal_attention() with a log-forgetting s [..., N, K] of every slot, g included. Within a chunk the decays of all
    pairs of tokens, [C, C, K]: exact for any s, -inf included."""
    n = v.shape[-2]
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    r_q, r_k, v, s = (F.pad(z, (0, 0, 0, -n % chunk)).unflatten(-2, (-1, chunk)) for z in (r_q, r_k, v, s))
    memory, outputs = v.new_zeros(*v.shape[:-3], r_k.shape[-1], v.shape[-1]), []
    for q, k, v_c, s_c in zip(r_q.unbind(-3), r_k.unbind(-3), v.unbind(-3), s.unbind(-3)):
        pairs = torch.exp(log_decays(s_c.mT)).movedim(-3, -1)  # [..., C, C, K], from token j to token i
        since_begin = torch.exp(s_c.cumsum(-2))
        mass = (pairs * k[..., None, :, :]).sum(-2) + since_begin * memory[..., None, :, -1]
        c = coefficients(q, mass, normalization)
        weights = torch.einsum("...ik,...ijk,...jk->...ij", c, pairs, k)
        outputs.append(weights @ v_c[..., :-1] + (c * since_begin) @ memory[..., :-1])
        memory = since_begin[..., -1, :, None] * memory + (pairs[..., -1, :, :] * k).mT @ v_c
    return torch.cat(outputs, -2)[..., :n, :]


def bidirectional_attention(r_q: Tensor, r_k: Tensor, v: Tensor, normalization: str) -> Tensor:
    c = coefficients(r_q, r_k.sum(-2, keepdim=True), normalization)
    return c @ (r_k.mT @ v)


def rotated(x: Tensor, first: int) -> Tensor:
    """Coordinates i and i + d/2 of row p as a complex number times exp(i (first + p) 10000^(-2i/d))."""
    n, d = x.shape[-2:]
    frequency = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.outer(torch.arange(first, first + n, dtype=torch.float64), frequency)
    cos, sin = (z.to(x.device, x.dtype) for z in (angle.cos(), angle.sin()))
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Softmax attention over the last `window` tokens, the present one included, with rotary positions. In blocks of W
    queries, which see the keys of their own block and the one before it."""
    n = q.shape[-2]
    w = min(window, n)
    blocks = -(-n // w)
    q = F.pad(q, (0, 0, 0, blocks * w - n)).unflatten(-2, (blocks, w))  # [..., N / W, W, d]
    k, v = (F.pad(z, (0, 0, w, blocks * w - n)).unflatten(-2, (blocks + 1, w)) for z in (k, v))
    k, v = (torch.cat([z[..., :-1, :, :], z[..., 1:, :, :]], -2) for z in (k, v))  # [..., N / W, 2 W, .]
    scores = rotated(q, w) @ rotated(k, 0).mT / math.sqrt(q.shape[-1])
    at = torch.arange(2 * w, device=q.device)
    distance = at[w:, None] - at
    is_token = at + w * torch.arange(blocks, device=q.device)[:, None, None] >= w
    scores = scores.masked_fill(~(is_token & (distance >= 0) & (distance < w)), -math.inf)
    return (torch.softmax(scores, -1) @ v).flatten(-3, -2)[..., :n, :]


class AttentionLayer(nn.Module):
    def __init__(self, config: LayerConfig, covariance: str = "diagonal"):
        """A start for training, as gma::random_layer() makes it, from torch's random numbers."""
        super().__init__()
        self.config, self.covariance = config, covariance
        c, (d, e), h = config, config.widths, config.key_heads
        self.query = Projection(c.width, c.heads * d, c.convolution)
        self.key = Projection(c.width, h * d, c.convolution)
        self.value = Projection(c.width, h * e, c.convolution)
        if c.has_forgetting:
            at = torch.linspace(0, 1, h) if h > 1 else torch.tensor([0.5])
            times = at * math.log(c.longest_time / c.shortest_time) + math.log(c.shortest_time)
            self.forget = Projection(c.width, h, bias=-times, scale=0.1)
            self.forget.rate = nn.Parameter(torch.zeros(h))
        if c.slot_forgetting_rank:
            rank, slots = c.slot_forgetting_rank, math.prod(c.components)
            times = 32 * torch.exp(torch.rand(h * rank, slots) * math.log(64))  # in tokens, from 32 to 2,048
            self.slot_forget = Projection(c.width, h * rank, scale=0.1)
            self.slot_forget.rate = nn.Parameter(-torch.log(times * rank * math.log(2)))
        if c.window:
            self.window = Projection(c.width, c.heads, bias=torch.full((c.heads,), -2.0), scale=0.1)
        width = d // len(c.components)
        self.mixtures = nn.ModuleList(
            nn.ModuleDict({"factors": nn.ModuleList(Mixture(k, width, covariance) for k in c.components)}) for _ in range(h))
        if c.has_output_norm:
            self.norm = nn.Module()
            self.norm.gain = nn.Parameter(torch.ones(c.heads * e))
        if c.has_output_gate:
            self.gate = Projection(c.width, c.heads * e)
        self.output = Projection(c.heads * e, c.width)

    def responsibilities(self, x: Tensor) -> Tensor:
        """x [..., H, G, N, d] -> [..., H, G, N, K]: products of the factors' posteriors, the last factor's slots fastest."""
        result = x.new_ones(1)
        for i, part in enumerate(x.chunk(len(self.config.components), -1)):
            r = posterior(part, [m["factors"][i] for m in self.mixtures], self.covariance)
            result = (result[..., None] * r[..., None, :]).flatten(-2)
        return result

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [..., N, D] -> [..., N, D]. Bidirectional layers may take keys and values from a context, [..., M, D]."""
        c, h = self.config, self.config.key_heads
        if context is not None and c.is_causal:
            raise ValueError("AttentionLayer: context is given to a causal layer, expected a bidirectional one")

        def heads(z: Tensor, each: int) -> Tensor:  # [..., N, H each width] -> [..., H, each, N, width]
            return z.unflatten(-1, (h, each, -1)).movedim(-4, -2)

        source = x if context is None else context
        q = unit_rms(heads(self.query(x), c.heads // h))
        k, v = unit_rms(heads(self.key(source), 1)), heads(self.value(source), 1)
        r_q, r_k = self.responsibilities(q), self.responsibilities(k)
        if c.is_causal:
            g = x.new_zeros(*x.shape[:-1], h)
            if c.has_forgetting:
                g = F.logsigmoid(-self.forget(x)) * torch.exp(self.forget.rate)  # -softplus
            g = g.mT[..., None, :]  # [..., H, 1, N]
            if c.slot_forgetting_rank:
                amounts = F.softplus(self.slot_forget(x)).unflatten(-1, (h, -1)).movedim(-2, -3)  # [..., H, N, R]
                s = g[..., None] - (amounts @ self.slot_forget.rate.exp().unflatten(0, (h, -1)))[..., None, :, :]
                y = causal_attention_by_slot(r_q, r_k, v, s, c.normalization)
            else:
                y = causal_attention(r_q, r_k, v, g, c.normalization)
        else:
            y = bidirectional_attention(r_q, r_k, v, c.normalization)
        if c.window:
            share = heads(torch.sigmoid(self.window(x)), c.heads // h)
            y = share * window_attention(q, k, v, c.window) + (1 - share) * y
        y = (unit_rms(y) if c.has_output_norm else y).movedim(-2, -4).flatten(-3)  # [..., N, H G e]
        if c.has_output_norm:
            y = y * self.norm.gain
        if c.has_output_gate:
            y = y * (F.silu if c.gate_activation == "silu" else torch.sigmoid)(self.gate(x))
        return self.output(y)


def save_layer(path, layer: AttentionLayer) -> None:
    """A file that gma::io::read_layer() reads."""
    metadata = {"format": "pt", "gma_format": "gma attention layer 1", "covariance": layer.covariance,
                "config": layer.config.to_json()}
    safetensors_file.write(path, layer.state_dict(), metadata)


def load_layer(path) -> AttentionLayer:
    """The layer of a file of gma::io::write_layer(), in the file's floating type."""
    tensors, metadata = safetensors_file.read(path)
    layer = AttentionLayer(LayerConfig.from_json(metadata["config"]), metadata["covariance"])
    layer.to(tensors["query.weight"].dtype).load_state_dict(tensors)
    return layer
