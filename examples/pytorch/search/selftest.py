# SPDX-License-Identifier: MIT
"""Every mixer's chunked form against its recurrence, token by token, in float64; causality; gradients of the inverse."""
import dataclasses, math, sys
from pathlib import Path
import torch
import old_pytorch  # noqa: F401
from candidates import *

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def check(name, a, b, limit=1e-10):
    error = ((a - b).norm() / b.norm()).item()
    print(f'{name:40s} {error:.1e}')
    assert error < limit, name


m, H, T, K, e, C = 3, 2, 128, 6, 5, 16
q, k, v = torch.rand(m, H, T, K), unit(torch.rand(m, H, T, K)), torch.randn(m, H, T, e)
g, b = -torch.rand(m, H, T), torch.rand(m, H, T)
cut = lambda x: chunked(x, C)
whole = lambda y: y.flatten(2, 3)


def recurrence(q, write, forget, mass=False):
    """`forget(t)`: [m, H, K or 1]; `write(t, M)`: the key and what it adds."""
    M, n, ys = torch.zeros(m, H, K, e), torch.zeros(m, H, K), []
    for t in range(T):
        a = forget(t)
        M, n = a[..., None] * M, a * n
        key, value = write(t, M)
        M, n = M + key[..., :, None] * value[..., None, :], n + key
        c = q[:, :, t] / n if mass else q[:, :, t]
        ys.append((c[..., None, :] @ M)[..., 0, :])
    return torch.stack(ys, 2)


decay = lambda t: g[:, :, t, None].exp()
a = decays(g, C)
check('linear_scan', whole(linear_scan(cut(q), cut(k), cut(v), a)), recurrence(q, lambda t, M: (k[:, :, t], v[:, :, t]), decay))
one = k[:, :1]
check('linear_scan, keys shared by heads', whole(linear_scan(cut(q[:, :1]), cut(one), cut(v), a)),
      recurrence(q[:, :1].expand_as(q), lambda t, M: (one[:, :, t].expand(m, H, K), v[:, :, t]), decay))
check('masses', whole(linear_scan(cut(q) / masses(cut(k), a), cut(k), cut(v), a)),
      recurrence(q, lambda t, M: (k[:, :, t], v[:, :, t]), decay, mass=True))
check('delta_scan', whole(delta_scan(cut(q), cut(k), cut(v), cut(b), a)),
      recurrence(q, lambda t, M: (k[:, :, t], b[:, :, t, None] * (v[:, :, t] - (k[:, :, t, None] @ M)[..., 0, :])), decay))
gs = -5 * torch.rand(m, H, T, K) ** 4
check('slot_scan', whole(slot_scan(q, k, v, gs)), recurrence(q, lambda t, M: (k[:, :, t], v[:, :, t]), lambda t: gs[:, :, t].exp(), mass=True))
gs = torch.full((m, H, T, K), LEAST_DECAY)
check('slot_scan at the least decay, float', whole(slot_scan(q.float(), k.float(), v.float(), gs.float())).double(),
      recurrence(q, lambda t, M: (k[:, :, t], v[:, :, t]), lambda t: gs[:, :, t].exp(), mass=True), 1e-5)
gs = -5 * torch.rand(m, H, T, K) ** 4
sq, sk = torch.randn(m, H, T, e), torch.randn(m, H, T, e)
N, M, ys = torch.zeros(m, H, K, e), torch.zeros(m, H, K, e), []
for t in range(T):
    a, write = gs[:, :, t, :, None].exp(), k[:, :, t, :, None]
    N, M = a * N + write * sk[:, :, t, None], a * M + write * v[:, :, t, None]
    ys.append(((N @ sq[:, :, t, :, None])[..., 0].softmax(-1)[..., None, :] @ M)[..., 0, :])
check('gated_slot_scan', whole(gated_slot_scan(sq, sk, k, v, gs)), torch.stack(ys, 2))
at = torch.arange(T)
for cache in (0, 32):
    far = (at > at[:, None]) | ((at[:, None] - at >= cache) if cache else at < 0)
    expected = (sq @ sk.transpose(-1, -2) / math.sqrt(e)).masked_fill(far, -math.inf).softmax(-1) @ v
    check(f'softmax_attention, cache {cache}', softmax_attention(sq, sk, v, cache), expected)
sys.path.insert(0, str(Path(__file__).parents[1]))
from gma_layer import window_attention
check('local_attention', local_attention(sq[..., :4], sk[..., :4], v, 32), window_attention(sq[..., :4], sk[..., :4], v, 32))
for size in (1.0, 1e-6, 1e-13, 0.0):   # strong decays and nearly empty slots, in float
    gs = torch.where(torch.rand(m, H, T, K) < 0.5, torch.full((), LEAST_DECAY), -torch.rand(m, H, T, K)).float().requires_grad_()
    ws, fq = (size * k).float().requires_grad_(), q.float().requires_grad_()
    y = whole(slot_scan(fq, ws, v.float(), gs, floor=2.0 ** -40))
    grads = torch.autograd.grad((y * v.float()).sum(), (fq, ws, gs))
    assert all(torch.isfinite(z).all() for z in (y, *grads)), size
A = (torch.randn(2, 16, 16)).tril(-1).requires_grad_()
check('inverse', UnitLowerInverse.apply(A), torch.linalg.inv(torch.eye(16) + A))
assert torch.autograd.gradcheck(UnitLowerInverse.apply, A)

p = {}
for f in range(2):
    p |= {f'mean{f}': torch.randn(2, 3, 4, 5), f'scale{f}': 0.3 * torch.randn(2, 3, 4, 5), f'logit{f}': torch.randn(2, 3, 4), f'tau{f}': torch.randn(2, 3)}
x = torch.randn(2 * 2, 3, 7, 10)
expected = 1
for f in range(2):
    part = x.unflatten(0, (2, 2))[..., 5 * f:5 * f + 5]                             # [E, B, H, T, 5]
    normal = torch.distributions.Normal(p[f'mean{f}'][:, None, :, None], p[f'scale{f}'].exp()[:, None, :, None])
    density = normal.log_prob(part[..., None, :]).sum(-1) + p[f'logit{f}'].log_softmax(-1)[:, None, :, None]
    r = (density / p[f'tau{f}'].exp()[:, None, :, None, None]).softmax(-1)
    expected = expected * (r[..., :, None] if f == 0 else r[..., None, :])
check('responsibilities', responsibilities(x, p, (4, 4)), expected.flatten(-2).flatten(0, 1))

for name, mixer in KINDS.items():
    if 16 in mixer.components: mixer = dataclasses.replace(mixer, components=(4, 6))
    model = Model(dataclasses.replace(mixer, layers=2, window=16, local=min(mixer.local, 16), state=16, head=min(mixer.head, 32)), vocabulary=50, width=48, heads=2, mlp=40, low=torch.float64)
    E = 2
    gen = torch.Generator().manual_seed(1)
    p = {n: torch.stack([start(s, gen).double() for _ in range(E)]) for n, (s, start, _) in layout(model).items()}
    p = {n: (x + 0.1 * torch.randn(x.shape, generator=gen)).requires_grad_() for n, x in p.items()}
    x = torch.randint(0, 50, (E, 3, 64), generator=gen)
    y = forward(p, x, model)
    changed = x.clone()
    changed[:, :, 41:] = 0
    gap = (forward(p, changed, model)[:, :, :41] - y[:, :, :41]).abs().max().item()
    # one model alone, in chunks of 16 and of 64
    single = {n: w[1:] for n, w in p.items()}
    alone = forward(single, x[1:], model, lambda h, w, o: block(h, w, o, 16))
    grads = dict(zip(p, torch.autograd.grad(losses(y, p, x, model).sum(), list(p.values()))))
    if mixer.components == (1, 1): grads = {n: g for n, g in grads.items() if layout(model)[n][2] != 'mixture'}   # one slot: no choice
    finite = all(torch.isfinite(t).all() and t.abs().max() > 0 for t in grads.values())
    print(f'{name:16s} parameters {count(model):6d}  future {gap:.0e}  alone and in other chunks '
          f'{(alone - y[1:]).abs().max().item():.0e}  every gradient finite and not zero {finite}')
    assert gap < 1e-12 and (alone - y[1:]).abs().max() < 1e-9 and finite and count(model) == sum(w[0].numel() for w in p.values())

# The window form against its definition, one head.
model = Model(dataclasses.replace(KINDS['window'], gate=False, window=16), width=48, heads=1, low=torch.float64)
p = {n: w.double()[None] for n, w in ((n, s(shape, torch.Generator().manual_seed(3))) for n, (shape, s, _) in layout(model).items())}
p = layer(p, 0)
p['out'] = torch.eye(48)[None]
x = torch.randn(1, 1, 64, 48)
q, k, v = convolve(project(x, p['in'], torch.float64), p['taps'])[0].chunk(3, -1)
g = -F.softplus(x[0] @ p['small'][0] + p['forget'])[0, :, 0]
r = lambda z: responsibilities(rms(z)[None], p, (8, 8))[0, 0]
rq, rk, s = r(q), r(k), rotate(rms(q))[0] @ rotate(rms(k))[0].T / math.sqrt(48)
expected, M, n = [], torch.zeros(64, 48), torch.zeros(64)
for t in range(64):
    M, n = g[t].exp() * M, g[t].exp() * n
    if t >= 16: M, n = M + rk[t - 16][:, None] * v[0, t - 16], n + rk[t - 16]
    near = s[t, max(0, t - 15):t + 1].exp()
    share = p['share'][0, 0].exp()
    expected.append((near @ v[0, max(0, t - 15):t + 1] + share * rq[t] @ M) / (near.sum() + share * rq[t] @ n))
check('window', mix(x, p, model)[0, 0], torch.stack(expected))
