# SPDX-License-Identifier: MIT
"""Multi-query associative recall after Zoology, many models at once; appends one JSON line a model.

    recall.py gate/8:.002,.004,.008:1-3 gdn/16:.002,.004,.008:1-3 --out records.jsonl

A job is KIND/STATE:RATES:SEEDS; STATE is 8 or 16, the memory of a layer in thousands of numbers. Every job trains all its
rates and seeds on each number of pairs. A sequence of 256 tokens begins with key-value pairs; then every key is asked once,
at gaps drawn from a power law, between random tokens (or, with --quiet, between zeros). Two layers of width 128. Projections
multiply in bfloat16.
"""
import argparse, dataclasses, json, math, os, time
import torch
from candidates import KINDS, Model, count, forward, logits, state_size, with_parameters
from recall_sequences import recall_sequences
from train_many import Ensemble, jobs_of, machine, prepare, read_records, rounded, seeds_of, train

T, WIDTH, VOCABULARY, PRODUCTS = 256, 128, 512, torch.bfloat16   # main sets them from its options


def model_of(kind, state):
    """Two layers with a memory of about `state` thousand numbers each."""
    mixer, heads = KINDS[kind], 2
    if mixer.memory == 'mamba2': mixer = dataclasses.replace(mixer, state=4 * state, layers=None if mixer.mlp else 4)
    elif mixer.features == 'plain' and mixer.memory != 'softmax': heads = 2 if state == 8 else 1
    else: mixer = dataclasses.replace(mixer, components=(8, 8) if state == 8 else (16, 8))
    shape = dict(vocabulary=VOCABULARY, width=WIDTH, layers=2, low=PRODUCTS)
    target = count(Model(KINDS['gate'], heads=2, mlp=2 * WIDTH, **shape))
    return with_parameters(Model(mixer, heads=heads, **shape), target)


def sequences(n, pairs, gen, quiet): return recall_sequences(n, T, pairs, VOCABULARY, gen, quiet)


def batches(groups, which, steps, batch, quiet, device):
    """groups: (pairs, seed); which [E]: the group of every model. A function of the step, for the graph."""
    X, Y = [], []
    for pairs, seed in groups:
        gen = torch.Generator(device).manual_seed(1000 * pairs + seed)
        made = [sequences(batch * 50, pairs, gen, quiet) for _ in range(-(-(steps + 8) // 50))]
        X.append(torch.cat([x for x, _ in made]).unflatten(0, (-1, batch)))
        Y.append(torch.cat([y for _, y in made]).unflatten(0, (-1, batch)))
    X, Y, which = torch.stack(X, 1), torch.stack(Y, 1), torch.tensor(which, device=device)
    return lambda step: tuple(z.index_select(0, step)[0].index_select(0, which).long() for z in (X, Y))


def accuracy(ensemble, pairs_of, batch, quiet, seed, n=256):
    """[E], on n sequences that no model has seen."""
    right, sets = 0, {}
    for pairs in set(pairs_of):
        sets[pairs] = sequences(n, pairs, torch.Generator(ensemble.device).manual_seed(seed), quiet)
    for i in range(0, n, batch):
        x, y = (torch.stack([sets[p][j][i:i + batch] for p in pairs_of]).long() for j in (0, 1))
        guess = logits(forward(ensemble.p, x, ensemble.model, ensemble.run_block).detach(),
                       {k: v.detach() for k, v in ensemble.p.items()}, ensemble.model).argmax(-1)
        right = right + ((guess == y) & (y >= 0)).sum((1, 2))
    return (right / (n * torch.tensor(pairs_of, device=right.device))).tolist()


def main():
    global T, WIDTH, VOCABULARY, PRODUCTS
    a = argparse.ArgumentParser()
    A = a.add_argument
    A('jobs', nargs='+'); A('--out', required=True); A('--records', nargs='*', default=[]); A('--claims', default=None)
    A('--pairs', type=int, nargs='+', default=[16, 32]); A('--steps', type=int, default=1500); A('--batch', type=int, default=32)
    A('--deadline', type=float, default=math.inf); A('--eager', action='store_true'); A('--quiet', action='store_true')
    A('--length', type=int, default=T); A('--width', type=int, default=WIDTH); A('--vocabulary', type=int, default=VOCABULARY)
    A('--float32', action='store_true', help='projections in float32 and not bfloat16')
    o = a.parse_args()
    T, WIDTH, VOCABULARY, PRODUCTS = o.length, o.width, o.vocabulary, torch.float32 if o.float32 else torch.bfloat16
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.set_float32_matmul_precision('high')
    if device == 'cpu': torch.set_num_threads(1)
    for job in jobs_of(o.jobs, o.claims or f'{o.out}.claims.{os.getpid()}'):
        name, rates, seeds = job.split(':')
        kind, state = name.split('/')
        records = read_records([o.out] + o.records)
        have = {(r['kind'], r['memory'], r['pairs'], r['rate'], r['seed'], r['steps'], r['quiet']) for r in records if r['task'] == 'recall'}
        runs = [(p, float(r), s) for p in o.pairs for r in rates.split(',') for s in seeds_of(seeds)
                if (kind, int(state), p, float(r), s, o.steps, o.quiet) not in have]
        if runs: run(o, kind, int(state), runs, device)


def run(o, kind, state, runs, device):
    pairs, rates, seeds = zip(*runs)
    model = model_of(kind, state)
    groups = sorted(set(zip(pairs, seeds)))
    get = batches(groups, [groups.index((p, s)) for p, _, s in runs], o.steps, o.batch, o.quiet, device)
    ensemble, step = prepare(lambda compiled: Ensemble(model, len(runs), o.steps, device, compiled, warmup=50), rates, seeds, get,
                             f'{kind}/{state}', not o.eager)
    seconds = train(ensemble, step, rates, seeds, o.deadline, f'{kind}/{state}')
    if seconds is None: return
    validation = accuracy(ensemble, pairs, o.batch, o.quiet, 7)
    test = accuracy(ensemble, pairs, o.batch, o.quiet, 8)
    curve = ensemble.log[:o.steps].unflatten(0, (-1, o.steps // 10)).mean(1).tolist() if o.steps % 10 == 0 else []
    with open(o.out, 'a') as f:
        for i, (p, rate, seed) in enumerate(runs):
            f.write(json.dumps(dict(
                task='recall', kind=kind, memory=state, pairs=p, rate=rate, seed=seed, steps=o.steps, batch=o.batch, quiet=o.quiet, length=T, width=WIDTH,
                parameters=count(model), mlp=model.mlp if model.mixer.mlp else 0, state=state_size(model, T),
                validation=rounded(validation[i]), test=rounded(test[i]), curve=[rounded(row[i]) for row in curve],
                seconds=round(seconds, 1), ms_per_step=round(1000 * seconds / o.steps / len(runs), 3),
                **machine(device))) + '\n')
    table = {}
    for i, (p, rate, seed) in enumerate(runs): table.setdefault((p, rate), []).append(test[i])
    print(f'{kind}/{state}: {seconds:.1f} s; ' + ', '.join(f'{p} pairs at {r}: ' + ' '.join(f'{x:.3f}' for x in v) for (p, r), v in table.items()), flush=True)


if __name__ == '__main__': main()
