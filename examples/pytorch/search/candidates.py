# SPDX-License-Identifier: MIT
"""Causal sequence mixers in plain PyTorch, many models at once.

Every parameter has a leading axis of E models, so that one program trains many seeds and learning rates side by side.
Every mixer is computed in chunks of tokens; `selftest.py` compares each one with its recurrence in float64.

Letters: E models, B sequences, T tokens, D model width, H heads, d head width, K slots, C tokens in a chunk, c chunks.
Inside a mixer tensors are [m, H, T, .] with m = E * B, and [m, H, c, C, .] in chunks.
"""
import dataclasses, math
import torch
import torch.nn.functional as F

LEAST_DECAY = -5.0    # least log decay of one token where every slot has its own (a factor of 0.0067)


@dataclasses.dataclass(frozen=True)
class Mixer:
    """What a mixer is. `memory` is one of
    mean     slots of a Gaussian mixture, each slot the mean of what was written (the library's layer)
    sum      unit features, no mass:  M(t) = a M(t-1) + b k v^T
    delta    unit features, the gated delta rule:  M(t) = a M(t-1) + b k (v - a M(t-1)^T k)^T
    slot     as mean, and every slot has its own decay, of low rank
    em       as mean, and a slot forgets what is written over it (online expectation maximisation)
    gsa      gated slot attention: slots of keys and of values, each slot with its own decay, read by softmax over the slots
    window   softmax attention over the last `window` tokens, slots for what leaves the window, one denominator
    softmax  softmax attention, rotary positions, queries and keys of unit mean square, a learned scale per head
    mamba2   the Mamba-2 mixer, with a bias after its convolution
    """
    memory: str = 'mean'
    features: str = 'mixture'      # or 'plain': queries and keys themselves, scaled to unit length; 'elu': elu + 1 of them
    components: tuple = (8, 8)     # of the product mixture
    centre: str = ''               # 'all': features are r - 1/K, scaled to unit length; 'factors': so for every factor
    gate: bool = True              # output norm and silu gate
    silu: bool = False             # SiLU after the convolution
    strength: float = 0.0          # start of the write strength's bias, before the sigmoid; None: no bias
    temperature: float = None      # start of log tau; default log(part width) / 2
    rank: int = 4                  # of the decay of a slot
    floor: float = 2.0 ** -20      # least mass that is divided by; in the library 2^-40
    window: int = 64
    local: int = 0                 # tokens of exact softmax attention beside the memory, by a learned share (the library's window)
    expand: int = 1                # width of a head's values in head widths
    trained: bool = True           # else the mixture stays as it starts
    forget: bool = True            # else no decay, for mean and delta
    state: int = 64                # Mamba-2: state size, head width
    head: int = 32
    mlp: bool = True
    layers: int = None             # other than the model's


def gma(**options): return Mixer(**options)


KINDS = {
    'gma': gma(gate=False),
    'gate': gma(),
    'gate_exact': gma(floor=2.0 ** -40),
    'gate_floor_14': gma(floor=2.0 ** -14),
    'gate_floor_10': gma(floor=2.0 ** -10),
    'gate_floor_6': gma(floor=2.0 ** -6),
    'gate_silu': gma(silu=True),
    'gate_16': gma(components=(16, 16)),
    'unit': gma(memory='sum'),
    'unit_c': gma(memory='sum', centre='all'),
    'delta': gma(memory='delta'),
    'delta_c': gma(memory='delta', centre='all'),
    'unit_f': gma(memory='sum', centre='factors'),
    'delta_f': gma(memory='delta', centre='factors'),
    'delta_f_16': gma(memory='delta', centre='factors', components=(16, 16)),
    'delta_f_silu': gma(memory='delta', centre='factors', silu=True),
    'delta_f_strong': gma(memory='delta', centre='factors', strength=2.0),
    'delta_f_weak': gma(memory='delta', centre='factors', strength=-2.0),
    'delta_silu': gma(memory='delta', silu=True),
    'delta_c_silu': gma(memory='delta', centre='all', silu=True),
    'delta_c_16': gma(memory='delta', centre='all', components=(16, 16)),
    'unit_c_silu': gma(memory='sum', centre='all', silu=True),
    'delta_strong': gma(memory='delta', strength=2.0),
    'delta_weak': gma(memory='delta', strength=-2.0),
    'delta_c_strong': gma(memory='delta', centre='all', strength=2.0),
    'delta_c_weak': gma(memory='delta', centre='all', strength=-2.0),
    'delta_c_weaker': gma(memory='delta', centre='all', strength=-4.0),
    'delta_c_sharp': gma(memory='delta', centre='all', temperature=0.7),
    'slot_decay': gma(memory='slot'),
    'slot_exact': gma(memory='slot', floor=2.0 ** -40),
    'gate_window': gma(floor=2.0 ** -40, local=64),
    'slot_window': gma(memory='slot', floor=2.0 ** -40, local=64),
    'gate_keep': gma(floor=2.0 ** -40, forget=False),
    'gate_frozen': gma(floor=2.0 ** -40, trained=False),
    'gate_1': gma(floor=2.0 ** -40, components=(1, 1)),
    'gate_elu': gma(floor=2.0 ** -40, features='elu'),
    'gate_unit': Mixer(memory='sum', features='plain'),
    'online_em': gma(memory='em'),
    'window': gma(memory='window'),
    'gdn': Mixer(memory='delta', features='plain', silu=True),
    'gdn_published': Mixer(memory='delta', features='plain', silu=True, strength=None),
    'deltanet': Mixer(memory='delta', features='plain', silu=True, strength=None, forget=False),
    'gdn_wide': Mixer(memory='delta', features='plain', silu=True, strength=None, expand=2),
    'gdn_window': Mixer(memory='delta', features='plain', silu=True, strength=None, local=64),
    'gsa': Mixer(memory='gsa', features='plain', silu=True),
    'gdn_weak': Mixer(memory='delta', features='plain', silu=True, strength=-2.0),
    'gla_unit': Mixer(memory='sum', features='plain', silu=True),
    'mamba2': Mixer(memory='mamba2'),
    'mamba2_plain': Mixer(memory='mamba2', mlp=False, layers=8),
    'mamba2_published': Mixer(memory='mamba2', mlp=False, state=128, head=64),
    'softmax': Mixer(memory='softmax', gate=False),
    'softmax_gate': Mixer(memory='softmax'),
}


@dataclasses.dataclass(frozen=True)
class Model:
    mixer: Mixer
    vocabulary: int = 256
    width: int = 192
    heads: int = 4
    layers: int = 4
    mlp: int = 576
    low: torch.dtype = torch.bfloat16    # of the projections' products; all else is in the parameters' own type
    chunk: int = 64                      # tokens of a chunk; slots with their own decay take at most 16
    cache: int = 0                       # softmax: the last tokens that are seen; 0: all


# ---- small parts -----------------------------------------------------------------------------------------------------

def rms(x, eps=1e-5): return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
def unit(x): return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-12)


def project(x, w, low):
    """[E, B, T, i] times [E, i, o]."""
    y = torch.bmm(x.flatten(1, 2).to(low), w.to(low))
    return y.unflatten(1, x.shape[1:3]).to(w.dtype)


def convolve(x, w):
    """Depthwise and causal: [E, B, T, c], taps [E, c, 4]."""
    taps, T = w.shape[-1], x.shape[2]
    x = F.pad(x, (0, 0, taps - 1, 0))
    return sum(x[:, :, i:i + T] * w[:, None, None, :, i] for i in range(taps))


def split_heads(x, H):
    """[E, B, T, H d] -> [E B, H, T, d]"""
    return x.flatten(0, 1).unflatten(-1, (H, -1)).transpose(1, 2)


def join_heads(y, B):
    """[E B, H, T, d] -> [E, B, T, H d]"""
    return y.transpose(1, 2).flatten(-2).unflatten(0, (-1, B))


def chunked(x, C): return x.unflatten(2, (-1, C))
def lower(n, device, diagonal=0): return torch.ones(n, n, dtype=torch.bool, device=device).tril(diagonal)


def rotate(x, base=10000.0):
    d, T = x.shape[-1], x.shape[-2]
    speed = base ** (-torch.arange(0, d, 2, device=x.device, dtype=x.dtype) / d)
    angle = torch.outer(torch.arange(T, device=x.device, dtype=x.dtype), speed)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * sin


def responsibilities(x, p, components, centred=False):
    """Of a product mixture of diagonal Gaussians. x [m, H, T, d] of unit mean square -> [m, H, T, K]. Where `centred`,
    every factor's responsibilities less 1/k are scaled to unit length before the product, which is then of unit length too."""
    E, H = p['mean0'].shape[:2]
    r = None
    for f, part in enumerate(x.unflatten(0, (E, -1)).chunk(len(components), -1)):
        mean, scale, logit, tau = (p[f'{name}{f}'] for name in ('mean', 'scale', 'logit', 'tau'))
        precision = torch.exp(-2 * scale)                                          # [E, H, k, width of the part]
        natural = torch.cat([precision * mean, -0.5 * precision], -1)
        constant = logit.log_softmax(-1) - 0.5 * (mean * mean * precision).sum(-1) - scale.sum(-1)
        inverse = torch.exp(-tau)[..., None]                                       # [E, H, 1]
        logits = torch.einsum('ebhtp,ehkp->ebhtk', torch.cat([part, part * part], -1), natural * inverse[..., None])
        q = (logits + (constant * inverse)[:, None, :, None]).softmax(-1)
        if centred: q = unit(q - 1 / q.shape[-1])
        r = q if r is None else (r[..., :, None] * q[..., None, :]).flatten(-2)
    return r.flatten(0, 1)


# ---- scans -----------------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Decays:
    """Products of the decays exp(g), g [m, H, T], in chunks."""
    inside: torch.Tensor    # [m, H, c, C, C]  from token j (after it) to token i, 0 for j > i
    start: torch.Tensor     # [m, H, c, C]     from the chunk's start to token i
    end: torch.Tensor       # [m, H, c, C]     from token j to the chunk's end
    between: torch.Tensor   # [m, H, c, c]     from the end of chunk b to the start of chunk a, 0 for b >= a
    total: torch.Tensor     # [m, H, c]


def decays(g, C):
    G = g.unflatten(-1, (-1, C)).cumsum(-1)
    total = G[..., -1]
    after = total.cumsum(-1)
    before = after - total
    inside = (G[..., :, None] - G[..., None, :]).masked_fill(~lower(C, g.device), -math.inf)
    between = (before[..., :, None] - after[..., None, :]).masked_fill(~lower(total.shape[-1], g.device, -1), -math.inf)
    return Decays(inside.exp(), G.exp(), (total[..., None] - G).exp(), between.exp(), total.exp())


def linear_scan(q, k, v, a):
    """M(t) = decay M(t-1) + k v^T, y = M(t)^T q. All in chunks; q and k may have one head for all."""
    Z = (k * a.end[..., None]).transpose(-1, -2) @ v                               # what each chunk writes
    S = (a.between @ Z.flatten(-2)).unflatten(-1, Z.shape[-2:])                    # the memory before each chunk
    return ((q @ k.transpose(-1, -2)) * a.inside) @ v + (q * a.start[..., None]) @ S


def masses(k, a):
    """m(t) = decay m(t-1) + k, in chunks."""
    before = a.between @ (k * a.end[..., None]).sum(-2)
    return a.inside @ k + a.start[..., None] * before[..., None, :]


class UnitLowerInverse(torch.autograd.Function):
    """(I + A)^-1 for strictly lower triangular A [..., C, C]; C is a power of two. Blocks of 1, 2, 4, ... are inverted."""
    @staticmethod
    def forward(context, A):
        C = A.shape[-1]
        index = torch.arange(C, device=A.device)
        X, size = torch.eye(C, dtype=A.dtype, device=A.device).expand_as(A), 1
        while size < C:
            block = index // size
            below = (block[:, None] % 2 == 1) & (block[:, None] - 1 == block[None, :])
            part = A * below
            X = X - (part if size == 1 else X @ part @ X)
            size *= 2
        context.save_for_backward(X)
        return X

    @staticmethod
    def backward(context, dX):
        X, = context.saved_tensors
        Xt = X.transpose(-1, -2)
        return -(Xt @ dX @ Xt).tril(-1)


def delta_scan(q, k, v, b, a):
    """M(t) = decay M(t-1) + b k (v - decay M(t-1)^T k)^T, y = M(t)^T q. In chunks, k of unit length, b [m, H, c, C]."""
    b = b[..., None]
    X = UnitLowerInverse.apply((b * (k @ k.transpose(-1, -2)) * a.inside).tril(-1))
    U, W = X @ (b * v), X @ (b * a.start[..., None] * k)
    K, total = (k * a.end[..., None]).transpose(-1, -2), a.total[..., None, None]
    S = torch.zeros_like(K[:, :, 0] @ v[:, :, 0])
    before, writes = [], []
    for i in range(k.shape[2]):
        before.append(S)
        writes.append(U[:, :, i] - W[:, :, i] @ S)
        S = total[:, :, i] * S + K[:, :, i] @ writes[-1]
    before, writes = torch.stack(before, 2), torch.stack(writes, 2)
    return ((q @ k.transpose(-1, -2)) * a.inside) @ writes + (q * a.start[..., None]) @ before


@dataclasses.dataclass
class SlotDecays:
    """As Decays where every slot has its own, g [m, H, T, K]. Within a chunk from its middle: g >= LEAST_DECAY and C <= 16
    keep the factors below exp(40), and these over a floor of 2^-40 below 3e29."""
    late: torch.Tensor      # [m, H, c, C, K]  from the chunk's middle to token i
    early: torch.Tensor     # [m, H, c, C, K]  from token j to the middle
    middle: torch.Tensor    # [m, H, c, 1, K]  from the start to the middle
    end: torch.Tensor       # [m, H, c, C, K]  from token j to the chunk's end
    between: torch.Tensor   # [m, H, K, c, c]  from the end of chunk b to the start of chunk a, 0 for b >= a

    def before(self, Z):
        """What each chunk writes, [m, H, c, K, e] -> the memory before each."""
        return (self.between @ Z.transpose(2, 3)).transpose(2, 3)


def slot_decays(g, C):
    G = chunked(g.clamp_min(LEAST_DECAY), C).cumsum(-2)
    middle, last = G[..., C // 2 - 1:C // 2, :], G[..., -1:, :]
    total = last[..., 0, :].transpose(-1, -2)                                      # [m, H, K, c]
    after = total.cumsum(-1)
    between = ((after - total)[..., :, None] - after[..., None, :]).masked_fill(~lower(total.shape[-1], g.device, -1), -math.inf)
    return SlotDecays((G - middle).exp(), (middle - G).exp(), middle.exp(), (last - G).exp(), between.exp())


def slot_scan(q, w, v, g, C=16, floor=2.0 ** -20):
    """Slot means with a log decay g [m, H, T, K] of every slot: y = sum_k q_k M_k(t) / m_k(t). Where `floor` is None there
    is no mass: y = sum_k q_k M_k(t)."""
    q, w, v, a = chunked(q, C), chunked(w, C), chunked(v, C), slot_decays(g, C)
    early, end = w * a.early, w * a.end
    S = a.before(end.transpose(-1, -2) @ v)
    if floor is not None:
        s = a.before(end.sum(-2)[..., None])[..., 0]
        q = q / (a.late * (early.cumsum(-2) + a.middle * s[..., None, :])).clamp_min(floor)
    c = q * a.late
    inside = (c @ early.transpose(-1, -2)).masked_fill(~lower(C, q.device), 0)
    return inside @ v + (c * a.middle) @ S


def gated_slot_scan(q, k, w, v, g, C=16):
    """Gated slot attention: keys' and values' slots N(t) = exp(g) N(t-1) + w k^T, M(t) = exp(g) M(t-1) + w v^T, and
    y = M(t)^T softmax(N(t) q)."""
    a, wc = slot_decays(g, C), chunked(w, C)
    qc, kc = chunked(q, C), chunked(k, C)
    N = a.before((wc * a.end).transpose(-1, -2) @ kc)
    inside = (qc @ kc.transpose(-1, -2)).masked_fill(~lower(C, q.device), 0)
    scores = a.late * (inside @ (wc * a.early) + a.middle * (qc @ N.transpose(-1, -2)))
    return slot_scan(scores.softmax(-1).flatten(2, 3), w, v, g, C, None)


def softmax_attention(q, k, v, cache=0):
    """Causal, over the last `cache` tokens, which divides T; 0: over all. In blocks of queries, so that no T x T matrix is made."""
    if not cache or cache >= q.shape[-2]: return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out, at = [], torch.arange(2 * cache, device=q.device)
    distance = at[cache:, None] - at
    near = (distance >= 0) & (distance < cache)
    for i in range(0, q.shape[-2], cache):
        first = max(0, i - cache)
        out.append(F.scaled_dot_product_attention(q[..., i:i + cache, :], k[..., first:i + cache, :], v[..., first:i + cache, :],
                                                  attn_mask=near[:, first - i - cache:]))
    return torch.cat(out, -2)


def window_scores(q, k, W):
    """exp(q k / sqrt d) for the last W tokens, in chunks of W: [m, H, c, W, 2 W], over the chunk before and this one."""
    q, k = chunked(q, W), chunked(k, W)
    k = torch.cat([F.pad(k, (0, 0, 0, 0, 1, 0))[:, :, :-1], k], -2)
    distance = torch.arange(W, device=q.device)[:, None] + W - torch.arange(2 * W, device=q.device)[None, :]
    seen = (distance >= 0) & (distance < W)
    seen = seen.expand(q.shape[2], W, 2 * W) & ((torch.arange(q.shape[2], device=q.device)[:, None, None] > 0) |
                                                (torch.arange(2 * W, device=q.device) >= W))
    return ((q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf).exp()


# ---- mixers ----------------------------------------------------------------------------------------------------------

def mix(x, p, model, chunk=None):
    """[E, B, T, D] -> [E, B, T, D], p the parameters of one layer."""
    o, H, B, T, low = model.mixer, model.heads, x.shape[1], x.shape[2], model.low
    C = min(chunk or model.chunk, T)
    if o.memory == 'mamba2': return mix_mamba2(x, p, model, C)
    D = model.width
    q, k, v = convolve(project(x, p['in'], low), p['taps']).split([D, D, o.expand * D], -1)
    if o.silu: q, k, v = F.silu(q), F.silu(k), F.silu(v)
    q, k, v = split_heads(q, H), split_heads(k, H), split_heads(v, H)
    if o.memory == 'softmax':
        q = p['query_scale'].repeat_interleave(B, 0)[:, :, None, None] * rotate(rms(q))
        y = softmax_attention(q.to(low), rotate(rms(k)).to(low), v.to(low), model.cache).to(v.dtype)
        return output(y, x, p, model)

    if o.forget or o.memory == 'delta': small = project(x, p['small'], torch.promote_types(low, x.dtype))   # forgetting, write strength, ...
    if not o.forget: g = torch.zeros_like(q[..., 0])
    elif o.memory != 'gsa':
        g = -(F.softplus(small[..., :H] + p['forget'][:, None, None]) * p['forget_scale'].exp()[:, None, None])
        g = g.flatten(0, 1).transpose(1, 2)                                        # [m, H, T]
    if o.memory in ('sum', 'delta', 'em'):
        b = small[..., -H:] if o.strength is None else small[..., -H:] + p['strength'][:, None, None]
        b = torch.sigmoid(b).flatten(0, 1).transpose(1, 2)
    if o.features == 'mixture':
        both = responsibilities(rms(torch.cat([q, k], 2)), p, o.components, o.centre == 'factors')
        fq, fk = both[:, :, :T], both[:, :, T:]
    elif o.features == 'elu': fq, fk = (F.relu(x) + x.clamp_max(0).exp() for x in (rms(q), rms(k)))     # elu + 1
    else: fq, fk = q, k
    if 'slot_order' in p: fq = fq.index_select(-1, p['slot_order'][0])             # an ablation: queries address other slots

    if o.memory in ('sum', 'delta'):
        centre = 1 / fq.shape[-1] if o.centre == 'all' else 0
        if o.centre != 'factors': fq, fk = unit(fq - centre), unit(fk - centre)
        a = decays(g, C)
        if o.memory == 'sum': y = linear_scan(chunked(fq, C), chunked(fk, C), chunked(b[..., None] * v, C), a)
        else: y = delta_scan(chunked(fq, C), chunked(fk, C), chunked(v, C), chunked(b, C), a)
    elif o.memory == 'mean':
        a, fq, fk = decays(g, C), chunked(fq, C), chunked(fk, C)
        y = linear_scan(fq / masses(fk, a).clamp_min(o.floor), fk, chunked(v, C), a)
    elif o.memory == 'window':
        W = min(o.window, T)
        scores = window_scores(rotate(rms(q)), rotate(rms(k)), W)
        v1 = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        near = chunked(v1, W)
        near = scores @ torch.cat([F.pad(near, (0, 0, 0, 0, 1, 0))[:, :, :-1], near], -2)
        gone = lambda z: chunked(F.pad(z, (0, 0, W, 0))[:, :, :T], C)
        far = linear_scan(chunked(fq, C), gone(fk), gone(v1), decays(g, C))
        share = p['share'].exp().repeat_interleave(B, 0)[:, :, None, None]          # [m, H, 1, 1]
        y = near.flatten(2, 3) + share * far.flatten(2, 3)
        y = y[..., :-1] / y[..., -1:]
    elif o.memory == 'em':
        w = b[..., None] * fk
        y = slot_scan(fq, w, v, g[..., None] + torch.log1p(-0.999 * w), min(16, C), o.floor)
    elif o.memory == 'gsa':
        slots = (small + p['slot_forget'][:, None, None]).unflatten(-1, (H, -1)).flatten(0, 1).transpose(1, 2)
        log_a = -F.softplus(-slots) / 8                                            # as in its publication, sigmoid(.)^(1/8)
        y = gated_slot_scan(unit(fq) * q.shape[-1] ** 0.5, unit(fk), 1 - log_a.exp(), v, log_a, min(16, C))
    elif o.memory == 'slot':
        amount = F.softplus(small[..., H:]).unflatten(-1, (H, o.rank))              # [E, B, T, H, rank]
        rate = torch.einsum('ebthr,ehrk->ebhtk', amount, -p['slot_rates'].exp()).flatten(0, 1)
        y = slot_scan(fq, fk, v, g[..., None] + rate, min(16, C), o.floor)
    y = y.flatten(2, 3) if y.ndim == 5 else y
    if o.local:
        share = torch.sigmoid(project(x, p['near'], torch.promote_types(low, x.dtype)) + p['near_bias'][:, None, None])
        share = share.flatten(0, 1).transpose(1, 2)[..., None]                     # [m, H, T, 1]
        y = share * local_attention(rms(q), rms(k), v, min(o.local, T)) + (1 - share) * y
    return output(y, x, p, model)


def local_attention(q, k, v, W):
    scores, v = window_scores(rotate(q), rotate(k), W), chunked(v, W)
    near = scores @ torch.cat([F.pad(v, (0, 0, 0, 0, 1, 0))[:, :, :-1], v], -2)
    return (near / scores.sum(-1, keepdim=True)).flatten(2, 3)


def output(y, x, p, model):
    """[m, H, T, d] -> [E, B, T, D]"""
    B, low = x.shape[1], model.low
    if model.mixer.gate: y = join_heads(rms(y), B) * p['gain'][:, None, None] * F.silu(project(x, p['gate'], low))
    else: y = join_heads(y, B)
    return project(y, p['out'], low)


def mix_mamba2(x, p, model, C):
    o, B, low = model.mixer, x.shape[1], model.low
    inner, N, h = 2 * model.width, o.state, 2 * model.width // o.head
    z, c, dt = project(x, p['in'], low).split([inner, inner + 2 * N, h], -1)
    values, keys, queries = F.silu(convolve(c, p['taps']) + p['taps_bias'][:, None, None]).split([inner, N, N], -1)
    dt = F.softplus(dt + p['dt'][:, None, None]).flatten(0, 1).transpose(1, 2)      # [m, h, T]
    rate = p['rate'].exp().repeat_interleave(B, 0)[..., None]                      # [m, h, 1]
    values = chunked(split_heads(values, h), C)
    keys, queries = chunked(split_heads(keys, 1), C), chunked(split_heads(queries, 1), C)
    y = linear_scan(queries, keys, chunked(dt, C)[..., None] * values, decays(-rate * dt, C))
    y = y + p['skip'].repeat_interleave(B, 0)[:, :, None, None, None] * values
    y = join_heads(y.flatten(2, 3), B)
    return project(rms(y * F.silu(z)) * p['gain'][:, None, None], p['out'], low)


# ---- the model -------------------------------------------------------------------------------------------------------

def block(x, p, model, chunk=None):
    x = x + mix(rms(x) * p['norm1'][:, None, None], p, model, chunk)
    if model.mixer.mlp:
        a, b = project(rms(x) * p['norm2'][:, None, None], p['up'], model.low).chunk(2, -1)
        x = x + project(F.silu(a) * b, p['down'], model.low)
    return x


def embed(tokens, table):
    """tokens [E, B, T], table [E, V, D]."""
    E, V, D = table.shape
    rows = (tokens + V * torch.arange(E, device=tokens.device)[:, None, None]).flatten()
    return table.flatten(0, 1).index_select(0, rows).unflatten(0, tokens.shape) * math.sqrt(D)


def logits(x, p, model): return project(rms(x) * p['norm'][:, None, None], p['embedding'].transpose(1, 2), model.low)


def losses(x, p, targets, model):
    """Nats of every token, 0 where the target is negative: [E, B, T]."""
    y = logits(x, p, model).flatten(0, 2)
    return F.cross_entropy(y, targets.flatten(), reduction='none', ignore_index=-100).unflatten(0, targets.shape)


def layout(model):
    """name -> (shape, start, group): group 'matrix' has weight decay, 'mixture' has five times the rate, 'frozen' none."""
    o, D, H = model.mixer, model.width, model.heads
    d, table = D // H, {}
    normal = lambda std: lambda shape, gen: std * torch.randn(shape, generator=gen)
    full = lambda value: lambda shape, gen: torch.full(shape, float(value))
    fixed = lambda tensor: lambda shape, gen: tensor.clone().float().view(shape)

    def put(name, shape, start, group='vector'): table[name] = (tuple(shape), start, group)
    def linear(name, i, n, scale=1.0): put(name, (i, n), normal(scale / math.sqrt(i)) if scale else full(0), 'matrix')
    def taps(name, c):
        def start(shape, gen):
            w = 0.2 * torch.randn(shape, generator=gen)
            w[:, -1] += 1
            return w
        put(name, (c, 4), start)

    put('embedding', (model.vocabulary, D), normal(0.5 / math.sqrt(D)), 'matrix')
    put('norm', (D,), full(1))
    for i in range(o.layers or model.layers):
        l = f'{i}.'
        put(l + 'norm1', (D,), full(1))
        if o.memory == 'mamba2':
            inner, N, h = 2 * D, o.state, 2 * D // o.head
            linear(l + 'in', D, 2 * inner + 2 * N + h)
            taps(l + 'taps', inner + 2 * N)
            put(l + 'taps_bias', (inner + 2 * N,), full(0))
            def dt(shape, gen):
                t = torch.exp(torch.rand(shape, generator=gen) * math.log(100) + math.log(1e-3))
                return t + torch.log(-torch.expm1(-t))
            put(l + 'dt', (h,), dt)
            put(l + 'rate', (h,), lambda shape, gen: torch.log(1 + 15 * torch.rand(shape, generator=gen)))
            put(l + 'skip', (h,), full(1))
            put(l + 'gain', (inner,), full(1))
            linear(l + 'out', inner, D, 0)
        else:
            linear(l + 'in', D, (2 + o.expand) * D)
            taps(l + 'taps', (2 + o.expand) * D)
            linear(l + 'out', o.expand * D, D, 0)
            if o.memory == 'softmax': put(l + 'query_scale', (H,), full(1))
            else:
                has_strength = o.memory in ('sum', 'delta', 'em')
                extra = H if has_strength else H * o.rank if o.memory == 'slot' else H * math.prod(o.components) if o.memory == 'gsa' else 0
                if o.memory == 'gsa' or not o.forget: own = extra
                else: own = H + extra
                if own: linear(l + 'small', D, own, 0.1)
                if o.memory != 'gsa' and o.forget:
                    times = torch.logspace(math.log10(16), math.log10(512), H) if H > 1 else torch.tensor([90.0])
                    put(l + 'forget', (H,), fixed(-times.log()))
                    put(l + 'forget_scale', (H,), full(0))
                if has_strength and o.strength is not None: put(l + 'strength', (H,), full(o.strength))
            if o.local:
                linear(l + 'near', D, H, 0.1)
                put(l + 'near_bias', (H,), full(-2))
            if o.memory == 'gsa':   # half-lives from 4 to 512 tokens, spread over the slots
                times = torch.logspace(math.log10(4), math.log10(512), math.prod(o.components)).repeat(H)
                put(l + 'slot_forget', (len(times),), fixed(-torch.log(torch.expm1(8 * math.log(2) / times))))
            if o.gate:
                linear(l + 'gate', D, o.expand * D)
                put(l + 'gain', (o.expand * D,), full(1))
            if o.memory == 'window': put(l + 'share', (H,), full(0.5 * math.log(math.prod(o.components))))
            if o.memory == 'slot':   # time constants from 32 to 2,048 tokens, shared out over the rank
                def slot_rates(shape, gen):
                    times = 32 * torch.exp(torch.rand(shape, generator=gen) * math.log(64))
                    return -torch.log(times * shape[1] * math.log(2))
                put(l + 'slot_rates', (H, o.rank, math.prod(o.components)), slot_rates)
            if o.features == 'mixture' and o.memory != 'softmax':
                part = d // len(o.components)
                tau = 0.5 * math.log(part) if o.temperature is None else o.temperature
                group = 'mixture' if o.trained else 'frozen'
                for f, k in enumerate(o.components):
                    put(f'{l}mean{f}', (H, k, part), normal(1), group)
                    put(f'{l}scale{f}', (H, k, part), full(0), group)
                    put(f'{l}logit{f}', (H, k), full(0), group)
                    put(f'{l}tau{f}', (H,), full(tau), group)
        if o.mlp:
            put(l + 'norm2', (D,), full(1))
            linear(l + 'up', D, 2 * model.mlp)
            linear(l + 'down', model.mlp, D, 0)
    return table


def count(model): return sum(math.prod(shape) for shape, _, _ in layout(model).values())


def with_parameters(model, target):
    """The model whose MLP width brings its number of parameters nearest to `target`; without MLP and where the mixer does not
    say it, the number of layers."""
    if not model.mixer.mlp and model.mixer.layers: return model
    if not model.mixer.mlp:
        one, two = (count(dataclasses.replace(model, layers=n)) for n in (1, 2))
        return dataclasses.replace(model, layers=max(1, 1 + round((target - one) / (two - one))))
    one, two = (count(dataclasses.replace(model, mlp=n)) for n in (1, 2))
    return dataclasses.replace(model, mlp=max(1, 1 + round((target - one) / (two - one))))


def state_size(model, T):
    """Numbers that one layer carries from token to token, without the convolution's last three tokens."""
    o, d = model.mixer, model.width // model.heads
    if o.memory == 'mamba2': return 2 * model.width * o.state
    if o.memory == 'softmax': return 2 * model.width * T
    if o.memory == 'gsa': return 2 * model.width * math.prod(o.components)
    slots = math.prod(o.components) if o.features == 'mixture' else d
    numbers = model.heads * slots * (o.expand * d if o.memory in ('sum', 'delta') else o.expand * d + 1)
    return numbers + (2 * model.width * o.window if o.memory == 'window' else 0) + (1 + o.expand) * model.width * o.local


def layer(p, i):
    """The parameters of layer i, without its prefix."""
    prefix = f'{i}.'
    return {name[len(prefix):]: value for name, value in p.items() if name.startswith(prefix)}


def forward(p, tokens, model, run_block=block):
    """[E, B, T] -> [E, B, T, D]"""
    x = embed(tokens, p['embedding'])
    for i in range(model.mixer.layers or model.layers): x = run_block(x, layer(p, i), model)
    return x
