# SPDX-License-Identifier: MIT
"""Tasks that ask a memory for what was written: many models at once, all rates and seeds of a kind; one JSON line a model.

    memory_tasks.py gate_exact/8 gdn_published/8 --task recall512x64 --out records.jsonl
    memory_tasks.py gate_exact/8 slot_exact/8 --task needle1024x16 --save models --out records.jsonl

A job is KIND/STATE[@WIDTH]; STATE is 8, 16 or 32, the memory of a layer in thousands of numbers. Tasks:

    recallTxP  multi-query associative recall (Zoology): T tokens, P pairs, then every key asked once, at gaps from a power law
    mixed      the same, T = 512, with 4, 8, 16, 32 and 64 pairs in turn
    copy       selective copying: 16 tokens among 512, then all of them in order
    needleTxP  P needles `!kv` somewhere among T random letters, every one asked once, by `?k`

Every model is also tested on longer sequences than those of its training, up to --longest tokens. Two layers (four without MLP),
AdamW, cosine. Projections multiply in bfloat16, all else is in float32 with TF32 on a GPU. Models of GMA are tested with the
components of queries permuted too.
"""
import argparse, dataclasses, math, os, re, time
import torch
from train_large import KINDS, Model, append, block, commit, count, forward, machine, prepare, read_records, rounded, state_size, with_parameters   # finds ../search
from candidates import logits
from recall_sequences import recall_sequences
from train_many import Ensemble, jobs_of, seeds_of, train

VOCABULARY = {'recall': 512, 'mixed': 512, 'copy': 18, 'needle': 256}
FILLER, NEEDLE, QUESTION, KEYS, VALUES, NAMES = ord('a'), ord('!'), ord('?'), 128, 192, 64   # of needles; the C++ program has the same


def model_of(kind, state, width, vocabulary, float32=False):
    """Two layers with a memory of about `state` thousand numbers each, and the parameters of `gate_exact`."""
    mixer, heads, n = KINDS[kind], 2, 1024 * state
    if mixer.memory == 'mamba2': mixer = dataclasses.replace(mixer, state=n // (2 * width), head=32, layers=None if mixer.mlp else 4)
    elif mixer.memory == 'gsa': mixer = dataclasses.replace(mixer, components=(n // (2 * width),))
    elif mixer.memory == 'delta' and mixer.features == 'plain':
        heads = 2 if 2 * n <= width * width else 1
        mixer = dataclasses.replace(mixer, expand=max(1, n * heads // width ** 2))
    elif mixer.features == 'mixture' and mixer.memory != 'softmax' and mixer.components != (1, 1):
        k = n // width
        first = 2 ** math.ceil(math.log2(k) / 2)
        mixer = dataclasses.replace(mixer, components=(first, k // first))
    shape = dict(vocabulary=vocabulary, width=width, layers=2, low=torch.float32 if float32 else torch.bfloat16)
    target = count(Model(KINDS['gate_exact'], heads=2, mlp=2 * width, **shape))
    return with_parameters(Model(mixer, heads=heads, **shape), target)


def copying(n, T, items, gen):
    """Selective copying: `items` of 16 tokens at random places among zeros, then as many requests (17), which want them in order."""
    device = gen.device
    x, y = torch.zeros(n, T, dtype=torch.long, device=device), torch.full((n, T), -100, device=device)
    at = torch.rand(n, T - items, generator=gen, device=device).argsort(1)[:, :items].sort(1)[0]
    values = torch.randint(1, 17, (n, items), generator=gen, device=device)
    x.scatter_(1, at, values)
    x[:, -items:], y[:, -items:] = 17, values
    return x.short(), y.short()


def needles(n, T, pairs, gen, far=False):
    """Cells of 4 tokens: a needle `!kv`, a question `?k` whose answer is v, or letters. Where `far`, all needles come first
    and all questions last, in another order."""
    device, cells = gen.device, T // 4
    x = FILLER + torch.randint(0, 26, (n, T), generator=gen, device=device)
    y = torch.full((n, T), -100, device=device)
    keys = KEYS + torch.rand(n, NAMES, generator=gen, device=device).argsort(1)[:, :pairs]
    values = VALUES + torch.randint(0, NAMES, (n, pairs), generator=gen, device=device)
    if far:
        first = torch.arange(pairs, device=device).expand(n, -1)
        last = cells - pairs + torch.rand(n, pairs, generator=gen, device=device).argsort(1)
    else:
        both = torch.rand(n, cells, generator=gen, device=device).argsort(1)[:, :2 * pairs].unflatten(1, (pairs, 2)).sort(2)[0]
        first, last = both.unbind(2)
    put = lambda cell, offset, what: x.scatter_(1, 4 * cell + offset, what if torch.is_tensor(what) else torch.full_like(cell, what))
    put(first, 0, NEEDLE), put(first, 1, keys), put(first, 2, values), put(last, 0, QUESTION), put(last, 1, keys)
    return x.short(), y.scatter_(1, 4 * last + 1, values).short()


def task_of(name, longest):
    """(make(n, gen, step) for training, {name of a test: (make(n, gen), answers of a sequence)})."""
    lengths = lambda first: [2 ** i for i in range(int(math.log2(first)), int(math.log2(longest)) + 1)]
    match = re.fullmatch(r'recall(\d+)x(\d+)', name)
    if match or name == 'mixed':
        T, P = (int(g) for g in match.groups()) if match else (512, 64)
        few = [4, 8, 16, 32, 64]
        tests = {f'{t}x{P}': (lambda n, gen, t=t: recall_sequences(n, t, P, 512, gen)) for t in lengths(T)}
        if not match: tests |= {f'{t}x{p}': (lambda n, gen, t=t, p=p: recall_sequences(n, t, p, 512, gen)) for t, p in ((64, 4), (128, 8), (256, 16), (512, 16))}
        return (lambda n, gen, i: recall_sequences(n, T, P if match else few[i % 5], 512, gen)), tests
    if name == 'copy':
        return (lambda n, gen, i: copying(n, 512, 16, gen)), {str(t): (lambda n, gen, t=t: copying(n, t, 16, gen)) for t in lengths(512)}
    match = re.fullmatch(r'needle(\d+)x(\d+)', name)
    if not match: raise ValueError(f'{name} is no task, expected recallTxP, mixed, copy or needleTxP')
    T, P = (int(g) for g in match.groups())
    tests = {str(T): lambda n, gen: needles(n, T, P, gen)}
    tests |= {f'far{t}': (lambda n, gen, t=t: needles(n, t, P, gen, True)) for t in lengths(256)}
    return (lambda n, gen, i: needles(n, T, P, gen)), tests


def data(make, seeds, which, steps, batch, device):
    """A function of the step, for the graph: the inputs and targets of every model. Models of a seed see the same."""
    X, Y = [], []
    for seed in seeds:
        gen = torch.Generator(device).manual_seed(1000 + seed)
        made = [make(batch, gen, i) for i in range(steps + 8)]
        X.append(torch.stack([x for x, _ in made])), Y.append(torch.stack([y for _, y in made]))
    X, Y, which = torch.stack(X, 1), torch.stack(Y, 1), torch.tensor(which, device=device)
    return lambda step: tuple(z.index_select(0, step)[0].index_select(0, which).long() for z in (X, Y))


def accuracies(ensemble, make, seed, n, tokens=1 << 19, order=None):
    """[E]: the share of right answers in n sequences that no model has seen, without compilation, so that any length goes."""
    x, y = make(n, torch.Generator(ensemble.device).manual_seed(seed))
    p = {k: v.detach() for k, v in ensemble.p.items()}
    if order is not None: p |= {f'{i}.slot_order': order[None] for i in range(ensemble.model.layers)}
    right, some = 0, max(1, tokens // (ensemble.E * x.shape[1]))
    with torch.no_grad():
        for i in range(0, n, some):
            a, b = (z[i:i + some].long().expand(ensemble.E, -1, -1) for z in (x, y))
            h = forward(p, a, ensemble.model, lambda h, w, o: block(h, w, o))
            at = (b[0] >= 0).nonzero()                                             # the answers alone: [number, 2]
            guess = logits(h[:, at[:, 0], at[:, 1]][:, None], p, ensemble.model)[:, 0].argmax(-1)
            right = right + (guess == b[:, at[:, 0], at[:, 1]]).sum(1)
    return (right / (y >= 0).sum()).tolist()


def run(o, kind, state, width, runs, device):
    rates, seeds = zip(*runs)
    model = model_of(kind, state, width, VOCABULARY[re.sub(r'\d.*', '', o.task)], o.float32)
    make, tests = task_of(o.task, o.longest)
    unique = sorted(set(seeds))
    get = data(make, unique, [unique.index(s) for s in seeds], o.steps, o.batch, device)
    name = f'{o.task} {kind}/{state}@{width}'
    ensemble, step = prepare(lambda compiled: Ensemble(model, len(runs), o.steps, device, compiled, warmup=50), rates, seeds, get, name,
                             hasattr(torch, 'compile') and device != 'cpu' and not o.eager)
    seconds = train(ensemble, step, rates, seeds, o.deadline, name)
    if seconds is None: return
    t = time.time()
    test = {}
    first = next(iter(tests))
    for k, m in tests.items(): test[k] = accuracies(ensemble, m, 8, max(4, min(o.sequences, o.sequences * 512 // int(re.findall(r'\d+', k)[0]))))
    validation = accuracies(ensemble, tests[first], 7, o.sequences)
    permuted = None
    if model.mixer.features == 'mixture' and model.mixer.memory in ('mean', 'slot'):
        slots = math.prod(model.mixer.components)
        order = torch.randperm(slots, generator=torch.Generator().manual_seed(1)).to(device)
        permuted = accuracies(ensemble, tests[first], 8, o.sequences, order=order)
    for i, (rate, seed) in enumerate(runs):
        record = dict(task=o.task, kind=kind, memory=state, width=width, rate=rate, seed=seed, steps=o.steps, batch=o.batch, layers=model.mixer.layers or model.layers,
                      parameters=count(model), mlp=model.mlp if model.mixer.mlp else 0, state=state_size(model, 512), validation=rounded(validation[i]),
                      test={k: rounded(v[i]) for k, v in test.items()}, curve=[rounded(float(c[:, i].mean())) for c in ensemble.log[:o.steps].cpu().chunk(10)],
                      products='float32' if o.float32 else 'bfloat16', commit=o.commit, seconds=round(seconds, 1),
                      evaluation_seconds=round(time.time() - t, 1), **machine(device))
        if permuted: record['permuted'] = rounded(permuted[i])
        append(o.out, record)
    by = {}
    for i, (rate, _) in enumerate(runs): by.setdefault(rate, []).append(validation[i])
    best = max(by, key=lambda r: sum(by[r]))
    mean = lambda values: sum(v for v, (r, _) in zip(values, runs) if r == best) / len(by[best])
    print(f'{name}: {seconds:.1f} s, evaluated in {time.time() - t:.1f} s; at {best:g}: ' + ', '.join(f'{k} {mean(v):.3f}' for k, v in test.items()), flush=True)
    if o.save:
        os.makedirs(o.save, exist_ok=True)
        for i in [i for i, (r, _) in enumerate(runs) if r == best][:o.most]:
            torch.save({n: x[i].detach().clone().cpu() for n, x in ensemble.p.items()}, f'{o.save}/{o.task}-{kind}-{state}-{seeds[i]}.pt')


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    A = a.add_argument
    A('jobs', nargs='+'); A('--task', required=True); A('--out', required=True); A('--claims', help='folder by which processes share the jobs')
    A('--rates', type=float, nargs='+', default=[1e-3, 2e-3, 4e-3, 8e-3]); A('--seeds', default='1-3')
    A('--steps', type=int, default=1500); A('--batch', type=int, default=32); A('--longest', type=int, default=4096)
    A('--sequences', type=int, default=256, help='of a test at 512 tokens; fewer of longer ones'); A('--until', type=float, default=math.inf, help='seconds')
    A('--save', help='folder for models at the best rate'); A('--most', type=int, default=1, help='models to save'); A('--eager', action='store_true')
    A('--float32', action='store_true'); A('--commit', default=None)
    o = a.parse_args()
    o.deadline, o.commit = time.time() + o.until, o.commit or commit()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if hasattr(torch, 'set_float32_matmul_precision'): torch.set_float32_matmul_precision('high')
    if device == 'cpu': torch.set_num_threads(1)
    for job in jobs_of(o.jobs, o.claims or f'{o.out}.claims.{os.getpid()}'):
        kind, state, width = re.fullmatch(r'(\w+)/(\d+)(?:@(\d+))?', job).groups()
        state, width = int(state), int(width or 128)
        have = {(r['rate'], r['seed']) for r in read_records([o.out])
                if (r['task'], r['kind'], r.get('memory'), r['width'], r['steps']) == (o.task, kind, state, width, o.steps)}
        runs = [(r, s) for r in o.rates for s in seeds_of(o.seeds) if (r, s) not in have]
        if runs and time.time() < o.deadline: run(o, kind, state, width, runs, device)


if __name__ == '__main__': main()
