# SPDX-License-Identifier: MIT
"""Trains many language models of one kind at once (rates and seeds side by side) and appends one JSON line a model.

    train_many.py KIND [KIND ...] --text bytes.npz --out records.jsonl

For every kind, first all --rates with the seeds --bracket; then the rate with the lowest mean validation loss with the fresh
seeds --final, as many models as before, in the same compiled program. What the records hold already is left out, so that a
run can be repeated after it was cut off. Several processes share the work through --claims, a folder. AdamW (0.9, 0.95),
decay 0.01 of matrices, clip 1, 100 steps of warm-up, cosine to 5 %, mixtures at five times the rate; the windows that a seed
sees are the same for every kind.
"""
import argparse, gc, json, math, os, time
import numpy as np
import torch
from candidates import KINDS, Model, block, count, embed, forward, layout, losses, state_size, with_parameters

PARAMETERS = 1992704


class Ensemble:
    """E models of one kind, their optimiser, and one training step as a CUDA graph. Parameters are views of one flat
    matrix [E, n], so that the optimiser is a few operations on matrices."""

    def __init__(self, model, E, steps, device, compiled=True, warmup=100):
        self.model, self.device, self.E, self.steps = model, device, E, steps
        self.table, offset = layout(model), 0
        for name, (shape, _, _) in self.table.items(): offset += -(-math.prod(shape) // 64) * 64
        zeros = lambda: torch.zeros(self.E, offset, device=device)
        self.P, self.M, self.V, self.G = zeros(), zeros(), zeros(), zeros()
        self.rate_scale, self.decay = torch.ones(offset, device=device), torch.zeros(offset, device=device)
        self.p, self.g, offset = {}, [], 0
        for name, (shape, _, group) in self.table.items():
            n = math.prod(shape)
            view = lambda flat: flat[:, offset:offset + n].unflatten(1, shape)
            self.p[name] = view(self.P).detach().requires_grad_()
            self.g.append(view(self.G))
            if group == 'mixture': self.rate_scale[offset:offset + n] = 5
            if group == 'frozen': self.rate_scale[offset:offset + n] = 0
            if group == 'matrix': self.decay[offset:offset + n] = 0.01
            offset += -(-n // 64) * 64
        self.rates = torch.zeros(E, 1, device=device)
        self.warmup, self.schedule = warmup, torch.zeros(steps + 8, 3, device=device)
        self.set_steps(steps)
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.log = torch.zeros(steps + 8, self.E, device=device)
        run = lambda x, p: block(x, p, model)
        head = lambda x, p, y: losses(x, p, y, model)
        wrap = (lambda f: torch.compile(f, fullgraph=True, dynamic=False)) if compiled else (lambda f: f)
        compiled_block, self.head, self.update = wrap(run), wrap(head), wrap(adamw)
        self.run_block = lambda x, p, _: compiled_block(x, p)

    def set_steps(self, steps):
        """For trainings of other lengths than the longest, which the constructor got."""
        self.steps = steps
        t = torch.arange(len(self.schedule), dtype=torch.float64)
        factor = ((t + 1) / self.warmup).clamp(max=1) * (0.05 + 0.475 * (1 + torch.cos(math.pi * t / steps)))
        self.schedule.copy_(torch.stack([factor, 1 / (1 - 0.9 ** (t + 1)), 1 / (1 - 0.95 ** (t + 1))], 1).float())

    def start(self, rates, seeds):
        gens = [torch.Generator().manual_seed(s) for s in seeds]
        with torch.no_grad():
            for x in (self.M, self.V, self.G, self.log, self.step): x.zero_()
            for name, (shape, start, _) in self.table.items():
                self.p[name].copy_(torch.stack([start(shape, gen) for gen in gens]))
            self.rates.copy_(torch.tensor(rates)[:, None])

    def token_losses(self, x, y):
        top = {name: self.p[name] for name in ('norm', 'embedding')}
        return self.head(forward(self.p, x, self.model, self.run_block), top, y)

    def train_step(self, batch):
        x, y = batch(self.step)
        known = (y >= 0).sum((1, 2))
        loss = self.token_losses(x, y).sum((1, 2)) / known
        torch._foreach_copy_(self.g, torch.autograd.grad(loss.sum(), list(self.p.values())))
        with torch.no_grad():
            self.update(self.P, self.M, self.V, self.G, self.schedule.index_select(0, self.step), self.rates, self.rate_scale, self.decay)
            self.log.index_copy_(0, self.step, loss.detach()[None])
            self.step += 1

    def prepare(self, batch):
        """Returns a function that does one step: a CUDA graph's replay, or the step itself on a CPU. `start` comes after it."""
        if self.device == 'cpu': return lambda: self.train_step(batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3): self.train_step(batch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph): self.train_step(batch)
        return graph.replay


def adamw(P, M, V, G, schedule, rates, rate_scale, decay):
    factor, first, second = schedule.unbind(1)
    G = torch.nan_to_num(G, 0.0, 0.0, 0.0)     # of a sum that overflowed
    G = G * (1 / G.pow(2).sum(1, keepdim=True).sqrt()).clamp(max=1)
    M.lerp_(G, 0.1)
    V.lerp_(G * G, 0.05)
    P.sub_(rates * factor * rate_scale * (M * first / ((V * second).sqrt() + 1e-8) + decay * P))


def synchronize(device):
    if device != 'cpu': torch.cuda.synchronize()


def prepare(make, rates, seeds, batch, name, compiled=True):
    """`make(compiled)` makes the ensemble. Returns it and a function that does one step."""
    t0 = time.time()
    if torch.cuda.is_available():
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ensemble = make(compiled)
    ensemble.start(rates, seeds)
    try: step = ensemble.prepare(batch)
    except Exception as error:
        if not compiled: raise
        print(f'{name}: not compiled, {type(error).__name__}: {str(error)[:300]}', flush=True)
        ensemble = make(False)
        ensemble.start(rates, seeds)
        step = ensemble.prepare(batch)
    synchronize(ensemble.device)
    print(f'{name}: {ensemble.E} models, prepared in {time.time() - t0:.1f} s', flush=True)
    return ensemble, step


def train(ensemble, step, rates, seeds, deadline, name):
    """Trains anew. Returns the seconds, or None where the time would not do."""
    ensemble.start(rates, seeds)
    t, first, steps = time.time(), min(20, ensemble.steps), ensemble.steps
    for i in range(steps):
        step()
        if i == first or i % 500 == 0: synchronize(ensemble.device)
        if i == first:
            left = (time.time() - t) / (first + 1) * (steps - first)
            if time.time() + 1.06 * left > deadline:
                print(f'{name}: {left:.0f} s are not left', flush=True)
                return None
    synchronize(ensemble.device)
    return time.time() - t


def rounded(x): return round(x, 6) if math.isfinite(x) else None


# ---- language --------------------------------------------------------------------------------------------------------

class Text:
    def __init__(self, file, device, context, lead):
        data = np.load(file)
        self.vocabulary, self.context, self.lead = int(data['vocabulary']), context, lead
        load = lambda a: torch.from_numpy(a.astype(np.int16)).to(device)
        self.train, self.windows = load(data['train']), {}
        for part in [k for k in data.files if k.startswith(('validation_', 'test_'))]:
            text = data[part][int(data['lead']) - lead - 1:].astype(np.int16)    # `lead` tokens of context before the first target
            starts = np.arange(0, len(text) - context, context - lead)
            self.windows[part] = load(text[starts[:, None] + np.arange(context + 1)])

    def batches(self, E, batch, steps):
        """Two functions: `get(step)`, the windows of every model, for the graph; and `draw(seeds)`, which comes before training."""
        at = torch.zeros(steps + 8, E, batch, dtype=torch.long, device=self.train.device)
        def draw(seeds):
            one = lambda s: torch.randint(0, len(self.train) - self.context - 1, (steps + 8, batch),
                                          generator=torch.Generator().manual_seed(10000 + s))
            at.copy_(torch.stack([one(s) for s in seeds], 1))
        span = torch.arange(self.context + 1, device=self.train.device)
        def get(step):
            x = self.train[at.index_select(0, step)[0][..., None] + span].long()
            return x[..., :-1].contiguous(), x[..., 1:].contiguous()
        return get, draw

    def evaluate(self, ensemble, batch, most=None):
        """part -> nats a token of every model [E], over the windows' last `context - lead` tokens."""
        result = {}
        for part, windows in self.windows.items():
            windows, sums = windows[:most], 0
            for i in range(0, len(windows), batch):
                x = windows[i:i + batch].long()
                n = len(x)
                x = pad_rows(x, batch)[None].expand(ensemble.E, -1, -1)
                y = ensemble.token_losses(x[..., :-1].contiguous(), x[..., 1:].contiguous()).detach()
                sums = sums + y[:, :n, self.lead:].double().sum((1, 2))
            result[part] = (sums / (len(windows) * (self.context - self.lead))).tolist()
        return result

    def mean(self, parts, which):
        chosen = {p: len(w) for p, w in self.windows.items() if p.startswith(which)}
        return sum(parts[p] * n for p, n in chosen.items()) / sum(chosen.values())


def pad_rows(x, n): return torch.cat([x, x[:1].expand(n - len(x), -1)]) if len(x) < n else x


def read_records(files): return [json.loads(line) for f in files if os.path.exists(f) for line in open(f) if line.strip()]


def best_rate(records, seeds):
    """The rate with the lowest mean validation loss over these seeds."""
    by_rate = {}
    for r in records:
        if r['seed'] in seeds: by_rate.setdefault(r['rate'], []).append(math.inf if r['validation'] is None else r['validation'])
    return min(by_rate, key=lambda rate: sum(by_rate[rate]) / len(by_rate[rate]))


def seeds_of(text):
    a, _, b = text.partition('-')
    return list(range(int(a), int(b or a) + 1))


def jobs_of(jobs, claims):
    """The jobs, each to one of the processes that share the folder `claims`."""
    os.makedirs(claims, exist_ok=True)
    for job in jobs:
        try: os.mkdir(os.path.join(claims, job.replace('/', '_').replace(':', '_')))
        except FileExistsError: continue
        yield job


def main():
    a = argparse.ArgumentParser()
    A = a.add_argument
    A('kinds', nargs='+'); A('--text', required=True); A('--out', required=True); A('--records', nargs='*', default=[])
    A('--claims', default=None); A('--rates', type=float, nargs='+', default=[1.5e-3, 3e-3, 6e-3])
    A('--bracket', default='1-2'); A('--final', default='11-16'); A('--steps', type=int, default=3500); A('--batch', type=int, default=8)
    A('--context', type=int, default=512); A('--lead', type=int, default=128); A('--deadline', type=float, default=math.inf)
    A('--width', type=int, default=192); A('--heads', type=int, default=4); A('--layers', type=int, default=4)
    A('--parameters', type=int, default=PARAMETERS); A('--eager', action='store_true'); A('--bfloat16', action='store_true')
    A('--windows', type=int, default=None); A('--save', help='folder for the parameters of fresh seeds'); A('--most', type=int, default=3)
    o = a.parse_args()
    o.bracket, o.final = seeds_of(o.bracket), seeds_of(o.final)
    assert len(o.final) == len(o.rates) * len(o.bracket), '--final needs as many seeds as there are models before'
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_float32_matmul_precision('high')
    if device == 'cpu': torch.set_num_threads(1)
    text = Text(o.text, device, o.context, o.lead)
    for kind in jobs_of(o.kinds, o.claims or f'{o.out}.claims.{os.getpid()}'): search(o, text, kind, device)


def search(o, text, kind, device):
    model = with_parameters(Model(KINDS[kind], vocabulary=text.vocabulary, width=o.width, heads=o.heads, layers=o.layers,
                                  low=torch.bfloat16 if o.bfloat16 else torch.float32), o.parameters)
    runs = [(r, s) for r in o.rates for s in o.bracket]
    get, draw = text.batches(len(runs), o.batch, o.steps)
    ensemble = None
    for stage in ('bracket', 'final'):
        records = [r for r in read_records([o.out] + o.records) if r['task'] == 'language' and r['kind'] == kind
                   and r['steps'] == o.steps and r['vocabulary'] == text.vocabulary]
        if stage == 'final':
            rate = best_rate(records, o.bracket)
            runs = [(rate, s) for s in o.final]
        if all((r, s) in {(x['rate'], x['seed']) for x in records} for r, s in runs): continue
        rates, seeds = zip(*runs)
        draw(seeds)
        if ensemble is None:
            ensemble, step = prepare(lambda compiled: Ensemble(model, len(runs), o.steps, device, compiled), rates, seeds, get,
                                     kind, not o.eager)
        seconds = train(ensemble, step, rates, seeds, o.deadline, kind)
        if seconds is None: return
        write_records(o, text, kind, ensemble, runs, stage, seconds)


def write_records(o, text, kind, ensemble, runs, stage, seconds):
    t, model = time.time(), ensemble.model
    parts = text.evaluate(ensemble, o.batch, o.windows)
    curve = ensemble.log[:o.steps].unflatten(0, (-1, o.steps // 10)).mean(1).tolist() if o.steps % 10 == 0 else []
    by_rate = {}
    with open(o.out, 'a') as f:
        for i, (rate, seed) in enumerate(runs):
            mine = {p: v[i] for p, v in parts.items()}
            record = dict(task='language', kind=kind, stage=stage, rate=rate, seed=seed, steps=o.steps, batch=o.batch,
                          context=o.context, vocabulary=text.vocabulary, parameters=count(model),
                          mlp=model.mlp if model.mixer.mlp else 0, state=state_size(model, o.context),
                          products='bfloat16' if o.bfloat16 else 'float32',
                          validation=rounded(text.mean(mine, 'validation')), test=rounded(text.mean(mine, 'test')),
                          parts={p: rounded(v) for p, v in mine.items()}, curve=[rounded(row[i]) for row in curve],
                          seconds=round(seconds, 1), ms_per_step=round(1000 * seconds / o.steps / len(runs), 3), **machine(ensemble.device))
            f.write(json.dumps(record) + '\n')
            by_rate.setdefault(rate, []).append(record['validation'] or math.nan)
    if o.save and stage == 'final': save(o, kind, ensemble, runs)
    print(f'{kind}: {seconds:.1f} s, evaluated in {time.time() - t:.1f} s, validation ' +
          ', '.join(f'{r}: {sum(v) / len(v):.4f}' for r, v in by_rate.items()), flush=True)


def save(o, kind, ensemble, runs):
    """One numpy file a model, for export.py, of the first --most."""
    os.makedirs(o.save, exist_ok=True)
    for i, (rate, seed) in enumerate(runs[:o.most]):
        arrays = {name: value[i].detach().float().cpu().numpy() for name, value in ensemble.p.items()}
        np.savez(os.path.join(o.save, f'{kind}-{seed}.npz'), **arrays)


def machine(device): return dict(device=torch.cuda.get_device_name() if device != 'cpu' else 'cpu', torch=torch.__version__)


if __name__ == '__main__': main()
