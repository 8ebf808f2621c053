# SPDX-License-Identifier: MIT
"""Trains language models of some 18 million parameters on a corpus of prepare.py: rates on a fifth of the tokens, then seeds
at the best rate. Everything that is to be run is a file, the queue, which plan() writes.

    train_large.py plan --corpus DATA/prose --kinds gate_exact gdn_published --tokens 40e6 --seeds 11,12,13,14 --out plan.json
    train_large.py trial --queue plan.json --gpus 2                                   compiles every kind, and prints milliseconds
    train_large.py fit --queue plan.json --work work --gpus 2 --seconds 1100 --out plan.json   as many tokens as there is time for
    train_large.py run --queue plan.json --gpus 2 --until 580 --work WORK --out records.jsonl

`run` may be called again and again: it goes on where it ended, within a run too. WORK has the parameters of runs that are not
finished, written every minute, on SIGTERM and after --until seconds; a run belongs to the process that holds the lock
of its file there, so that the runs of a killed process are free. A finished run is one line of --out, appended once.

Where the best rate of a kind is at an edge of its grid, `run` tries the next one (twice or half as high) by itself, at most
twice. Products with weights are in bfloat16 and sums in float32; parameters, residuals, norms, softmaxes, decays, masses and all
products inside a mixer are in float32, with TF32 on a GPU; softmax attention itself is in bfloat16, as its kernels want it.
"""
import argparse, dataclasses, fcntl, json, math, os, random, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'search'))
import old_pytorch  # noqa: F401
from candidates import KINDS, Model, block, count, forward, losses, state_size, with_parameters
from train_many import Ensemble, best_rate, machine, pad_rows, prepare, read_records, rounded, synchronize
from corpus import Corpus, groups, position_bins

SHAPE = dict(width=384, heads=6, layers=8, mlp=1024)   # the reference, `gate_exact`; the other kinds get its number of parameters
GRID = (2e-3, 4e-3, 8e-3)
COST = {'delta': 1.3, 'slot': 1.1, 'gsa': 1.4, 'softmax': 0.65, 'mamba2': 1.3}   # of time, gate = 1; estimates until a trial has run


# ---- the queue ---------------------------------------------------------------------------------------------------------

def model_of(kind, settings, vocabulary):
    s = settings
    shape = dict(vocabulary=vocabulary, width=s['width'], heads=s['heads'], layers=s['layers'], chunk=s['chunk'],
                 low=torch.float32 if s['float32'] else torch.bfloat16)
    target = s.get('parameters') or count(Model(KINDS['gate_exact'], mlp=s['mlp'], **shape))
    return with_parameters(Model(KINDS[kind], **shape), target)


def flops(model, context):
    """A token's operations, forward and backward: 6 a parameter and product, and what the mixers do in chunks."""
    o, D, C = model.mixer, model.width, model.chunk
    layers = o.layers or model.layers
    state = state_size(model, context) if o.memory != 'softmax' else 0
    inside = 4 * D * context / 2 if o.memory == 'softmax' else 4 * state + 4 * C * D * (2 if o.memory == 'delta' else 1)
    return 6 * count(model) + 3 * layers * inside


def nanoseconds(model, context, bandwidth=3.35e12, rate=2.5e14):
    """An estimate of a token's time on one H100. Bytes: from the search, where `gate` took 1.22 ms for 4,096 tokens of 4
    layers of width 192 at 4.8 TB/s (an H200), so 1.9 kB for each layer and column of a token; the logits come to that."""
    o = model.mixer
    layers = (o.layers or model.layers) * (0.6 if not o.mlp else 1)
    bytes_ = 1900 * layers * model.width * COST.get(o.memory, 1.0) + 24 * model.vocabulary
    return 1e9 * (bytes_ / bandwidth + flops(model, context) / rate)


def runs_of(kinds, corpus, settings, rates, bracket, seeds):
    steps = lambda tokens: max(1, round(tokens / (settings['batch'] * settings['context'])))
    few, many = steps(settings['tokens'] / 5), steps(settings['tokens'])
    out = [dict(corpus=corpus, kind=k, stage='bracket', rate=r, seed=s, steps=few) for k in kinds for r in rates for s in bracket]
    return out + [dict(corpus=corpus, kind=k, stage='final', rate=None, seed=s, steps=many) for s in seeds for k in kinds]


def name_of(run): return f"{run['corpus']}-{run['kind']}-{run['stage']}-{run['rate'] if run['stage'] == 'bracket' else 'best'}-{run['seed']}"


def matches(record, run):
    return (record.get('task') == 'language' and all(record[k] == run[k] for k in ('corpus', 'kind', 'stage', 'seed', 'steps')) and
            (run['stage'] == 'final' or record['rate'] == run['rate']))


def open_runs(plan, records):
    """The runs that no record has, brackets widened, and the best rates written into final runs whose bracket is complete."""
    out, added = [], {}
    runs = list(plan['runs'])
    for corpus, kind in dict.fromkeys((r['corpus'], r['kind']) for r in runs):
        mine = [r for r in runs if (r['corpus'], r['kind'], r['stage']) == (corpus, kind, 'bracket')]
        if not mine: continue
        grid, seeds = sorted({r['rate'] for r in mine}), sorted({r['seed'] for r in mine})
        first = len(grid)
        while True:
            wanted = [dict(mine[0], rate=r, seed=s) for r in grid for s in seeds]
            done = [r for r in records if any(matches(r, w) for w in wanted)]
            if len({(r['rate'], r['seed']) for r in done}) < len(wanted): best = None; break
            best = best_rate(done, seeds)
            if len(grid) > first + 1 or best not in (grid[0], grid[-1]): break
            grid = sorted(grid + [best * 2 if best == grid[-1] else best / 2])
        added[corpus, kind] = (wanted, best)
    for (corpus, kind), (wanted, _) in added.items():
        out += [w for w in wanted if not any(matches(r, w) for r in records)]
    for run in runs:
        if run['stage'] == 'final' and not any(matches(r, run) for r in records):
            best = added[run['corpus'], run['kind']][1] if (run['corpus'], run['kind']) in added else run['rate']
            out.append(dict(run, rate=best))
    return out


# ---- one run -----------------------------------------------------------------------------------------------------------

class Trainer(Ensemble):
    """One model. It can be saved and read at any step; a step's result does not depend on where it was."""
    def __init__(self, model, steps, batch, corpus, context, device, compiled):
        super().__init__(model, 1, steps, device, compiled)
        self.most, self.batch, self.corpus, self.context = steps, batch, corpus, context
        self.at = torch.zeros(steps + 8, batch, dtype=torch.long, device=device)
        self.span = torch.arange(context + 1, device=device)

    def get(self, step):
        x = self.corpus.train[self.at.index_select(0, step) [0][:, None] + self.span].long()[None]
        return x[..., :-1].contiguous(), x[..., 1:].contiguous()

    def begin(self, rate, seed, steps):
        """`start`, and the windows of this seed, which are the same for every kind."""
        self.warmup = min(100, max(1, steps // 10))
        self.set_steps(steps)
        self.start([rate], [seed])
        gen = torch.Generator().manual_seed(10000 + seed)
        self.at[:steps].copy_(torch.randint(0, len(self.corpus.train) - self.context - 1, (steps, self.batch), generator=gen))

    def state(self): return {k: getattr(self, k).cpu() for k in ('P', 'M', 'V', 'log', 'step')}
    def restore(self, state):
        with torch.no_grad():
            for k, value in state.items(): getattr(self, k)[:len(value)].copy_(value[:len(getattr(self, k))])

    def eager_losses(self, x, y, model=None, more={}):
        """Without compilation and gradients, for any length. `more` parameters are an ablation's."""
        model = model or self.model
        with torch.no_grad():
            top = {name: self.p[name] for name in ('norm', 'embedding')}
            h = forward({**self.p, **more}, x[None], model, lambda h, p, _: block(h, p, model))
            return torch.cat([losses(h[:, :, i:i + 2048], top, y[None, :, i:i + 2048], model)[0] for i in range(0, h.shape[2], 2048)], 1)

    def window_losses(self, windows):
        """[n, T + 1] -> [n, T], float64 on the CPU, with the compiled form of training."""
        out = []
        for i in range(0, len(windows), self.batch):
            x = torch.from_numpy(windows[i:i + self.batch].astype(np.int64)).to(self.device)
            n = len(x)
            x = pad_rows(x, self.batch)[None]
            out.append(self.token_losses(x[..., :-1].contiguous(), x[..., 1:].contiguous()).detach()[0, :n].cpu().double().numpy())
        return np.concatenate(out) if out else np.zeros((0, windows.shape[1] - 1))


def summed(parts): return {k: [int(sum(p[k][0] for p in parts if k in p)), round(float(sum(p[k][1] for p in parts if k in p)), 3)] for k in dict.fromkeys(k for p in parts for k in p)}


def evaluate(trainer, settings, rare, is_final):
    """What a record says about losses; nats a token. Of a bracket, the validation loss alone."""
    s, corpus, V = settings, trainer.corpus, trainer.corpus.vocabulary
    context, lead, result, per_part, grouped, positions = s['context'], s['context'] // 4, {}, {}, [], []
    for which in ('validation', 'test')[:1 + is_final]:
        total, n, windows_out = 0.0, 0, []
        for part, windows in corpus.windows(which, context, lead, s['windows']).items():
            y = trainer.window_losses(windows)
            counted = y[:, lead:]
            total, n = total + counted.sum(), n + counted.size
            per_part[part] = rounded(float(counted.mean()))
            if which == 'test':
                windows_out += [rounded(round(float(v), 4)) for v in counted.mean(1)]
                inside = groups(windows, V, rare)
                grouped.append({k: (g[:, lead:].sum(), counted[g[:, lead:]].sum()) for k, g in inside.items()})
                positions.append({str(a): (y[:, a:b].size, y[:, a:b].sum()) for a, b in position_bins(context)})
        result[which] = rounded(total / n) if n else None
        if which == 'test': result['test_windows'] = windows_out
    result['parts'] = per_part
    if not is_final: return result
    result.update(groups=summed(grouped), positions=summed(positions))
    o = trainer.model.mixer
    if o.features == 'mixture' and o.memory in ('mean', 'slot') and math.prod(o.components) > 1:
        order = torch.randperm(math.prod(o.components), generator=torch.Generator().manual_seed(1)).to(trainer.device)
        both, n = [0.0, 0.0], 0
        for windows in corpus.windows('test', context, lead, 4).values():
            for w in windows:
                x = torch.from_numpy(w.astype(np.int64)).to(trainer.device)[None]
                for i, more in enumerate(({}, {f'{l}.slot_order': order[None] for l in range(trainer.model.layers)})):
                    both[i] += float(trainer.eager_losses(x[:, :-1], x[:, 1:], more=more)[:, lead:].double().sum())
                n += context - lead
        result['permuted'] = [rounded(b / n) for b in both]
    if s['longest']:
        models = {'long': trainer.model}
        if trainer.model.mixer.memory == 'softmax': models['long_cut'] = dataclasses.replace(trainer.model, cache=context)
        for name, model in models.items():
            grouped, positions = [], []
            for part, windows in corpus.long_windows('test', s['longest'], s['long_windows']).items():
                for w in windows:
                    x = torch.from_numpy(w.astype(np.int64)).to(trainer.device)[None]
                    y = trainer.eager_losses(x[:, :-1], x[:, 1:], model).cpu().double().numpy()
                    grouped.append({k: (g.sum(), y[g].sum()) for k, g in groups(w[None], V, rare).items()})
                    positions.append({str(a): (b - a, y[:, a:b].sum()) for a, b in position_bins(s['longest'])})
            result[name] = dict(groups=summed(grouped), positions=summed(positions))
    return result


def round_matrices(trainer):
    """Parameters of matrices as bfloat16 has them, all others as they are: what pack.py keeps."""
    with torch.no_grad():
        for name, (_, _, group) in trainer.table.items():
            if group == 'matrix': trainer.p[name].copy_(trainer.p[name].bfloat16().float())


class Stop(Exception): pass


def train(trainer, step, run, settings, file, until, say):
    """Trains to the end, from what `file` has. Raises Stop where time is up; the file then has the present state."""
    trainer.begin(run['rate'], run['seed'], run['steps'])
    seconds = 0.0
    if os.path.exists(file):
        saved = torch.load(file)
        if saved['run'] == run:
            trainer.restore(saved['state'])
            seconds = saved['seconds']
    done, t0, saved_at = int(trainer.step), time.time(), time.time()
    def save():
        synchronize(trainer.device)
        torch.save(dict(run=run, state=trainer.state(), seconds=seconds + time.time() - t0), file + '.new')
        os.replace(file + '.new', file)
    for i in range(done, run['steps']):
        step()
        if i % settings['every'] == 0:
            synchronize(trainer.device)
            if time.time() > until or Stopped.now:
                save()
                say(f'{name_of(run)}: stopped after step {i + 1} of {run["steps"]}')
                raise Stop
            if time.time() > saved_at + 60:
                save()
                saved_at = time.time()
    synchronize(trainer.device)
    seconds += time.time() - t0
    torch.save(dict(run=run, state=trainer.state(), seconds=seconds), file)        # should the evaluation be cut off
    return seconds


class Stopped: now = False


def finish(trainer, run, plan, seconds, rare, o):
    t, s, model = time.time(), plan['settings'], trainer.model
    curve = trainer.log[:run['steps'], 0].cpu()
    curve = [rounded(float(c.mean())) for c in curve.chunk(20)]
    record = dict(task='language', corpus=run['corpus'], kind=run['kind'], stage=run['stage'], rate=run['rate'], seed=run['seed'], steps=run['steps'],
                  batch=s['batch'], context=s['context'], tokens=run['steps'] * s['batch'] * s['context'], vocabulary=model.vocabulary,
                  parameters=count(model), layers=model.mixer.layers or model.layers, width=model.width, heads=model.heads, mlp=model.mlp if model.mixer.mlp else 0,
                  chunk=model.chunk, state=state_size(model, s['context']), products='float32' if s['float32'] else 'bfloat16', curve=curve,
                  **evaluate(trainer, s, rare, run['stage'] == 'final'), commit=plan['commit'], flags=plan['flags'])
    if run['stage'] == 'final':
        round_matrices(trainer)
        windows = trainer.corpus.windows('test', s['context'], s['context'] // 4, s['windows']).values()
        ys = [trainer.window_losses(w)[:, s['context'] // 4:] for w in windows]
        record['test_packed'] = rounded(float(sum(y.sum() for y in ys) / max(1, sum(y.size for y in ys))))
        if o.save:
            os.makedirs(o.save, exist_ok=True)
            torch.save({n: (x[0].detach().bfloat16() if trainer.table[n][2] == 'matrix' else x[0].detach()).cpu() for n, x in trainer.p.items()},
                       f'{o.save}/{run["corpus"]}-{run["kind"]}-{run["seed"]}.pt')
    record.update(seconds=round(seconds, 1), ms_per_step=round(1000 * seconds / run['steps'], 3), evaluation_seconds=round(time.time() - t, 1),
                   **machine(trainer.device))
    if trainer.device != 'cpu': record['gpu_gib'] = round(torch.cuda.max_memory_allocated() / 2 ** 30, 1)
    append(o.out, record)
    print(f"{name_of(run)} at {run['rate']:g}: validation {record['validation']}, test {record.get('test')}; {seconds:.1f} s, "
          f"{record['ms_per_step']} ms a step, evaluated in {record['evaluation_seconds']} s", flush=True)


def append(path, record):
    """One line, whole, whoever else writes."""
    with open(path, 'a') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write(json.dumps(record) + '\n')


# ---- workers -----------------------------------------------------------------------------------------------------------

def claim(folder, run):
    """An open file whose lock says that a run is being made, or None. The system frees the lock of a process that ends."""
    f = open(f'{folder}/{name_of(run)}.lock', 'w')
    try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        f.close()
        return None
    return f


def worker(o, plan, index, until):
    torch.set_float32_matmul_precision('high') if hasattr(torch, 'set_float32_matmul_precision') else None
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu': torch.set_num_threads(1)
    os.makedirs(o.work, exist_ok=True)
    say = lambda text: print(f'[{index}] {text}', flush=True)
    corpora, rare, kind, trainer, step, broken = {}, {}, None, None, None, set()
    speed = {r['kind']: r['ms'] / 1000 for r in read_records([f'{o.work}/trial.jsonl'])}   # seconds a step
    def need(r): return speed[r['kind']] * r['steps'] * 1.05 + (15 if r['stage'] == 'final' else 5) if r['kind'] in speed else 0
    compiled = hasattr(torch, 'compile') and device != 'cpu' and not o.eager
    kinds = list(dict.fromkeys(r['kind'] for r in plan['runs']))
    while time.time() < until and not Stopped.now:
        todo = open_runs(plan, read_records([o.out]))
        if o.only: todo = [r for r in todo if r['kind'] in o.only]
        if not todo: return say('nothing is left to do')
        ready = [r for r in todo if r['rate'] is not None and r['kind'] not in broken]
        if broken and not ready and {r['kind'] for r in todo} <= broken: return say('only runs that failed are left')
        # A round is a kind's bracket and two seeds, and then two more. Within one, first the kind in hand, which is compiled;
        # then the others, where every worker begins at another place.
        turn = lambda r: (kinds.index(r['kind']) - index * len(kinds) // max(1, o.gpus)) % len(kinds)
        finals = sorted({r['seed'] for r in plan['runs'] if r['stage'] == 'final'})
        rounds = lambda r: 0 if r['stage'] == 'bracket' else finals.index(r['seed']) // 2
        ready.sort(key=lambda r: (rounds(r), (r['corpus'], r['kind']) != kind, turn(r), r['stage'] != 'bracket', r['seed']))
        run = lock = None
        for r in ready:
            if o.whole and need(r) > until - time.time() and not os.path.exists(f'{o.work}/{name_of(r)}.pt'): continue
            lock = claim(o.work, r)
            if lock and any(matches(x, r) for x in read_records([o.out])):
                lock.close()
                lock = None
            if lock:
                run = r
                break
        if run is None:
            if o.whole and ready and all(need(r) > until - time.time() for r in ready): return say('the time left is too short for a run')
            time.sleep(1 + random.random())
            continue
        if run['corpus'] not in corpora:
            corpora[run['corpus']] = Corpus(f"{o.data or plan['data']}/{run['corpus']}", device)
            rare[run['corpus']] = corpora[run['corpus']].is_rare()
        corpus, s = corpora[run['corpus']], plan['settings']
        if (run['corpus'], run['kind']) != kind:
            trainer = step = None
            model, most = model_of(run['kind'], s, corpus.vocabulary), max(r['steps'] for r in plan['runs'])
            def make(c):
                made = Trainer(model, most, s['batch'], corpus, s['context'], device, c)
                make.last = made
                return made
            try: trainer, step = prepare(make, [run['rate']], [run['seed']], lambda i: make.last.get(i), f'[{index}] {run["kind"]}', compiled)
            except Exception as error:
                say(f'{run["kind"]} does not run: {str(error)[:500]}')
                broken.add(run['kind'])
                lock.close()
                continue
            kind = (run['corpus'], run['kind'])
        try: seconds = train(trainer, step, run, s, f'{o.work}/{name_of(run)}.pt', until, say)
        except Stop: return
        speed[run['kind']] = seconds / run['steps']
        finish(trainer, run, plan, seconds, rare[run['corpus']], o)
        if os.path.exists(f'{o.work}/{name_of(run)}.pt'): os.remove(f'{o.work}/{name_of(run)}.pt')
        lock.close()
    say('time is up' if not Stopped.now else 'stopped')


def start_workers(o, arguments):
    """One process a GPU; 0: one here, on the CPU. SIGTERM and SIGINT go on to them."""
    children = [subprocess.Popen([sys.executable, str(HERE / 'train_large.py')] + arguments + ['--worker', str(i), '--began', str(o.began)],
                                 env=dict(os.environ, CUDA_VISIBLE_DEVICES=str(i % o.gpus))) for i in range(o.gpus)]
    for s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, lambda *_: [c.send_signal(signal.SIGTERM) for c in children])
    return max([abs(c.wait()) for c in children], default=0)


def trial(o, plan):
    """Compiles every kind, all at the same time, and then times 20 steps of one after the other."""
    kinds = list(dict.fromkeys(r['kind'] for r in plan['runs']))
    os.makedirs(o.work, exist_ok=True)
    if o.worker is None and o.gpus:
        t = time.time()
        for i in range(len(kinds)): Path(o.work, f'ready.{i}').unlink(missing_ok=True)
        children = [subprocess.Popen([sys.executable, str(HERE / 'train_large.py'), 'trial', '--queue', o.queue, '--worker', str(i), '--work', o.work] +
                                     (['--data', o.data] if o.data else []), env=dict(os.environ, CUDA_VISIBLE_DEVICES=str(i % o.gpus)))
                    for i in range(len(kinds))]
        code = max(abs(c.wait()) for c in children)
        print(f'trial: {time.time() - t:.0f} s', flush=True)
        return code
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_float32_matmul_precision('high') if hasattr(torch, 'set_float32_matmul_precision') else None
    if device == 'cpu': torch.set_num_threads(1)
    s, run = plan['settings'], plan['runs'][0]
    corpus = Corpus(f"{o.data or plan['data']}/{run['corpus']}", device)
    for kind in kinds if o.worker is None else [kinds[o.worker]]:
        model = model_of(kind, s, corpus.vocabulary)
        def make(c):
            make.last = Trainer(model, 64, s['batch'], corpus, s['context'], device, c)
            return make.last
        try: trainer, step = prepare(make, [1e-3], [1], lambda i: make.last.get(i), kind, hasattr(torch, 'compile') and device != 'cpu' and not o.eager)
        except Exception as error:
            print(f'{kind}: does not run: {str(error)[:500]}', flush=True)
            if o.worker is not None: Path(o.work, f'ready.{o.worker}').touch()
            continue
        if o.worker is not None:   # nobody is timed while others compile
            Path(o.work, f'ready.{o.worker}').touch()
            patience = time.time() + 180
            while time.time() < patience and not all(Path(o.work, f'ready.{i}').exists() for i in range(len(kinds))): time.sleep(0.2)
        with open(f'{o.work}/trial.{os.environ.get("CUDA_VISIBLE_DEVICES", "")}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            trainer.begin(1e-3, 1, 64)
            for i in range(o.trial_steps + 3):
                if i == 3:
                    synchronize(device)
                    t = time.time()
                step()
            synchronize(device)
            ms = 1000 * (time.time() - t) / o.trial_steps
        tokens, memory = s['batch'] * s['context'], torch.cuda.max_memory_allocated() / 2 ** 30 if device != 'cpu' else 0
        total = sum(r['steps'] for r in plan['runs'] if r['kind'] == kind) * ms / 1000
        print(f'{kind}: {ms:.1f} ms a step, {1e6 * ms / tokens:.0f} ns a token (estimated {nanoseconds(model, s["context"]):.0f}), {memory:.1f} GiB, '
              f'{count(model)} parameters, layers {model.mixer.layers or model.layers}, MLP {model.mlp if model.mixer.mlp else 0}; '
              f'its runs: {total:.0f} s', flush=True)
        append(f'{o.work}/trial.jsonl', dict(kind=kind, ms=ms, memory=memory, **machine(device)))
    return 0


def fit(o, plan):
    """The same runs with as many tokens as take --seconds on --gpus, by the times of a trial. Runs of kinds that did not run are left out."""
    ms, s = {r['kind']: r['ms'] for r in read_records([f'{o.work}/trial.jsonl'])}, plan['settings']
    runs = [r for r in plan['runs'] if r['kind'] in ms]
    kinds = {r['kind'] for r in runs}
    if not runs: raise SystemExit('fit: the trial has no kind of this queue')
    fixed = sum(12 if r['stage'] == 'final' else 3 for r in runs) + 45 * len(kinds)   # evaluation; compilation and loading
    now = sum(r['steps'] * ms[r['kind']] / 1000 for r in runs)
    factor = min((0.95 * o.seconds * o.gpus - fixed) / now, o.most / s['tokens'])
    if factor <= 0: raise SystemExit(f'fit: evaluation and compilation alone take {fixed} s of {o.seconds * o.gpus:.0f}; fewer kinds or seeds')
    for r in runs: r['steps'] = max(150, round(r['steps'] * factor))
    s['tokens'] = max(r['steps'] for r in runs) * s['batch'] * s['context']
    Path(o.out).write_text(json.dumps(dict(plan, runs=runs), indent=1))
    print(f"fit: {s['tokens'] / 1e6:.1f} M tokens a final run, {len(runs)} runs, {now * factor:.0f} GPU seconds of training and {fixed} of other things; "
          f'left out: {sorted({r["kind"] for r in plan["runs"]} - kinds)}')
    return 0


def commit():
    r = subprocess.run(['git', '-C', str(HERE), 'rev-parse', '--short=12', 'HEAD'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return r.stdout.decode().strip() or 'unknown'


def make_plan(o):
    corpus = Path(o.corpus)
    facts = json.loads(Path(f'{o.corpus}.json').read_text())
    settings = dict(width=o.width, heads=o.heads, layers=o.layers, mlp=o.mlp, chunk=o.chunk, context=o.context, batch=o.batch, tokens=o.tokens,
                    float32=o.float32, windows=o.windows, longest=o.longest, long_windows=o.long_windows, every=o.every)
    numbers = lambda text: [int(i) for i in text.split(',')]
    runs = runs_of(o.kinds, corpus.name, settings, o.rates, numbers(o.bracket), numbers(o.seeds))
    plan = dict(data=str(corpus.parent), commit=commit(), flags=' '.join(sys.argv[2:]), settings=settings, runs=runs)
    Path(o.out).write_text(json.dumps(plan, indent=1))
    total = 0.0
    for kind in o.kinds:
        model = model_of(kind, settings, facts['vocabulary'])
        ns, mine = nanoseconds(model, o.context), [r for r in runs if r['kind'] == kind]
        seconds = sum(r['steps'] for r in mine) * o.batch * o.context * ns * 1e-9
        total += seconds
        final = max(r['steps'] for r in mine) * o.batch * o.context
        print(f'{kind:18s} {count(model):9d} parameters, {model.mixer.layers or model.layers:2d} layers, MLP {model.mlp if model.mixer.mlp else 0:4d}, '
              f'{state_size(model, o.context):7d} numbers a layer, {flops(model, o.context) / 1e6:4.0f} MFLOP and {ns:5.0f} ns a token; '
              f'{len(mine)} runs, the longest {final / 1e6:.1f} M tokens and {final * ns * 1e-9:.0f} s, all {seconds:.0f} s')
    print(f'all: {len(runs)} runs, {total:.0f} GPU seconds estimated, without compilation (a minute a kind) and evaluation (10 s a run)')


def options():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = a.add_subparsers(dest='command', required=True)
    p = commands.add_parser('plan')
    A = p.add_argument
    A('--corpus', required=True); A('--kinds', nargs='+', required=True); A('--out', required=True)
    A('--rates', type=float, nargs='+', default=GRID); A('--bracket', default='1'); A('--seeds', default='11,12,13,14')
    A('--tokens', type=float, default=40e6); A('--batch', type=int, default=8); A('--context', type=int, default=2048)
    for name, value in SHAPE.items(): A(f'--{name}', type=int, default=value)
    A('--chunk', type=int, default=64); A('--float32', action='store_true', help='all in float32')
    A('--windows', type=int, default=200, help='of each part at most'); A('--every', type=int, default=10, help='steps between looks at the clock')
    A('--longest', type=int, default=16384); A('--long-windows', type=int, default=6, help='of each part at most')
    for name in ('trial', 'run'):
        p = commands.add_parser(name)
        A = p.add_argument
        A('--queue', required=True); A('--gpus', type=int, default=0); A('--work', required=name == 'run', default='work'); A('--data')
        A('--worker', type=int, help=argparse.SUPPRESS); A('--eager', action='store_true')
        if name == 'trial': A('--trial-steps', type=int, default=20)
        else:
            A('--out', required=True); A('--until', type=float, default=math.inf, help='seconds'); A('--save', help='folder for final parameters')
            A('--only', nargs='*', help='kinds'); A('--whole', action='store_true', help='begin no run that will not end in time')
            A('--began', type=float, help=argparse.SUPPRESS)
    p = commands.add_parser('fit')
    A = p.add_argument
    A('--queue', required=True); A('--work', required=True); A('--out', required=True); A('--seconds', type=float, required=True); A('--gpus', type=int, default=1)
    A('--most', type=float, default=80e6, help='tokens')
    return a.parse_args()


def main():
    o = options()
    if o.command == 'plan': return make_plan(o)
    plan = json.loads(Path(o.queue).read_text())
    if o.command == 'trial': return trial(o, plan)
    if o.command == 'fit': return fit(o, plan)
    o.began = o.began or time.time()
    if o.worker is None and o.gpus: return start_workers(o, sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: setattr(Stopped, 'now', True))
    worker(o, plan, o.worker or 0, o.began + o.until)
    return 0


if __name__ == '__main__': sys.exit(main())
