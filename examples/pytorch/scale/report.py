# SPDX-License-Identifier: MIT
"""report.py RECORDS.jsonl ... [--against KIND] [--out FOLDER] [--needles NEEDLE.json ...]: the tables by the rules in README.md, and figures with bands where
gnuplot is installed. The standard library alone."""
import argparse, json, math, subprocess, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'search'))
from analyse import group, half_width, holm, mean, table, variance, welch


def cell(x, digits=4): return f'{mean(x):.{digits}f} ± {half_width(x):.{digits}f}' if len(x) > 1 else f'{mean(x):.{digits}f}'


def chosen_rates(bracket, key, better=min):
    """kind -> (rate, whether it is at an edge of the grid)."""
    out = {}
    for kind, rs in group(bracket, 'kind').items():
        by = {rate: [key(r) for r in g] for rate, g in group(rs, 'rate').items()}
        worst = math.inf if better is min else -math.inf
        value = lambda rate: worst if None in by[rate] else mean(by[rate])
        best = better(by, key=value)
        out[kind] = (best, best in (min(by), max(by)) and len(by) > 1, by)
    return out


def compared(scores, reference, sign, digits=4):
    """name -> (difference, interval, Welch p, Holm p, verdict), against the reference; a verdict needs three seeds. sign -1: less is better."""
    if reference not in scores or len(scores[reference]) < 2: return {}
    pairs = {k: welch(x, scores[reference]) for k, x in scores.items() if k != reference and len(x) > 1}
    corrected, out = holm({k: c[2] for k, c in pairs.items()}), {}
    for k, (d, w, p) in pairs.items():
        enough = min(len(scores[k]), len(scores[reference])) >= 3
        excludes = abs(d) > w
        way = f'{reference} better' if d * sign < 0 else f'{reference} worse'
        verdict = 'fewer than 3 seeds' if not enough else way if excludes and corrected[k] < 0.05 else f'promising: {way}' if excludes else 'no difference shown'
        out[k] = [f'{d:+.{digits}f} [{d - w:+.{digits}f}, {d + w:+.{digits}f}]', f'{p:.2g}', f'{corrected[k]:.2g}', verdict]
    return out


def score_table(title, scores, facts, reference, sign, digits=4):
    print(f'{title}\n')
    against = compared(scores, reference, sign, digits)
    rows = [[k, *facts(k), cell(x, digits), f'{math.sqrt(variance(x)):.{digits}f}' if len(x) > 1 else '', len(x)] + against.get(k, ['', '', '', ''])
            for k, x in sorted(scores.items(), key=lambda item: -sign * mean(item[1]))]
    table(['kind', *facts(None), 'mean ± 95 %', 'sd', 'n', f'less {reference} [95 %]', 'Welch p', 'Holm p', 'by the rule'], rows)


def loss_of(pairs): return pairs[1] / pairs[0] if pairs and pairs[0] else None


def by_bins(records, where, what):
    """kind -> bin -> losses of the seeds."""
    out = {}
    for kind, rs in group(records, 'kind').items():
        for r in rs:
            part = r.get(where) if where else r
            if not part: continue
            for name, pairs in part[what].items():
                if loss_of(pairs) is not None: out.setdefault(kind, {}).setdefault(name, []).append(loss_of(pairs))
    return out


def bin_table(title, bins):
    if not bins: return
    print(f'{title}\n')
    names = list(dict.fromkeys(n for b in bins.values() for n in b))
    table(['kind'] + names, [[k] + [cell(b[n], 3) if n in b else '' for n in names] for k, b in bins.items()])


def figure(folder, name, title, xlabel, ylabel, curves, logx=True):
    """curves: kind -> [(x, values of the seeds)]; a band is the 95 % interval. Writes NAME.gnuplot and draws NAME.svg."""
    curves = {k: [(x, v) for x, v in points if v] for k, points in curves.items()}
    curves = {k: points for k, points in curves.items() if points}
    if not folder or not curves: return
    lines = [f"set terminal svg size 720,460 font 'sans,12' background 'white'", f"set output '{name}.svg'", f"set title '{title}'",
             f"set xlabel '{xlabel}'", f"set ylabel '{ylabel}'", 'set grid', 'set key outside right', 'set style fill transparent solid 0.15 noborder'] + \
            (['set logscale x 2'] if logx else [])
    for i, points in enumerate(curves.values()):
        lines.append(f'$d{i} << EOD')
        lines += [f'{x} {mean(v)} {half_width(v) if len(v) > 1 else 0}' for x, v in points] + ['EOD']
    plots = [p for i, k in enumerate(curves) for p in (f'$d{i} using 1:($2-$3):($2+$3) with filledcurves lc {i + 1} notitle',
                                                      f'$d{i} using 1:2 with linespoints pt 7 ps 0.4 lw 2 lc {i + 1} title "{k}" noenhanced')]
    Path(folder, f'{name}.gnuplot').write_text('\n'.join(lines + ['plot ' + ', '.join(plots), '']))
    try: subprocess.run(['gnuplot', f'{name}.gnuplot'], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError): print(f'({name}.gnuplot was not drawn: install gnuplot-nox)\n')


def language(records, corpus, reference, out):
    bracket, final = ([r for r in records if r['stage'] == s] for s in ('bracket', 'final'))
    rates = chosen_rates(bracket, lambda r: r['validation'])
    print(f'## {corpus}: validation loss by rate, on a fifth of the tokens\n')
    grid = sorted({r['rate'] for r in bracket})
    show = lambda v: '' if not v else 'diverged' if None in v else f'{mean(v):.4f}'
    table(['kind'] + [f'{r:g}' for r in grid], [[k] + [f'**{show(by.get(r))}**' if r == best else show(by.get(r)) for r in grid] for k, (best, _, by) in rates.items()])
    if not final: return
    by_kind = group(final, 'kind')
    losses = {k: [math.inf if r['test'] is None else r['test'] for r in rs] for k, rs in by_kind.items()}
    diverged = [k for k, x in losses.items() if math.inf in x]
    losses = {k: x for k, x in losses.items() if k not in diverged}
    for k in diverged: print(f'{k} diverged in {sum(v["test"] is None for v in by_kind[k])} of {len(by_kind[k])} seeds: it is not below anything. The tables below leave these seeds out.\n')
    final = [r for r in final if r['test'] is not None]
    if not final: return
    by_kind = group(final, 'kind')
    def facts(k):
        if k is None: return ['rate', 'parameters', 'numbers a layer', 'M tokens', 'ms a step']
        r = by_kind[k][0]
        return [f"{r['rate']:g}{' (edge)' if rates.get(k, (0, False))[1] else ''}", r['parameters'], r['state'], round(r['tokens'] / 1e6, 1), f"{mean([x['ms_per_step'] for x in by_kind[k]]):.1f}"]
    score_table(f'## {corpus}: test loss of fresh seeds at the best rate, nats a piece', losses, facts, reference, -1)
    windows = [v for v in final[0]['test_windows'] if v is not None]
    if len(windows) > 1: print(f'Windows differ more than seeds do: their losses have sd {math.sqrt(variance(windows)):.2f}; every kind is tested on the same.\n')
    bin_table(f'### {corpus}: loss by whether the bigram was seen in the window, and how many tokens before if it is rare', by_bins(final, '', 'groups'))
    far = {k: [sum(r['groups'][g][1] for g in ('rare_256', 'rare_1024')) / n for r in rs for n in [sum(r['groups'][g][0] for g in ('rare_256', 'rare_1024'))] if n] for k, rs in by_kind.items()}
    if all(far.values()): score_table(f'### {corpus}: loss on rare bigrams seen 256 to 2,047 tokens before', far, lambda k: [], reference, -1)
    bin_table(f'### {corpus}: loss by position in the window of training', by_bins(final, '', 'positions'))
    long = by_bins(final, 'long', 'positions') | {f'{k}, cache cut': b for k, b in by_bins(final, 'long_cut', 'positions').items()}
    bin_table(f'### {corpus}: loss by position beyond the context', long)
    bin_table(f'### {corpus}: rare bigrams beyond the context', by_bins(final, 'long', 'groups'))
    permuted = {k: [r['permuted'] for r in rs if r.get('permuted')] for k, rs in by_kind.items()}
    rows = [[k, cell([p[0] for p in v]), cell([p[1] for p in v])] for k, v in permuted.items() if v]
    if rows:
        print(f'### {corpus}: the components of queries permuted, on some windows of the test\n')
        table(['kind', 'as trained', 'permuted'], rows)
    figure(out, f'{corpus}_positions', f'{corpus}: loss by position', 'position', 'nats a piece', {k: [(max(32, int(n)), v) for n, v in b.items()] for k, b in (long or by_bins(final, '', 'positions')).items()})
    recall = by_bins(final, '', 'groups')
    figure(out, f'{corpus}_recall', f'{corpus}: rare bigrams seen before in the window', 'tokens since', 'nats a piece',
           {k: [(int(n[5:]), v) for n, v in b.items() if n.startswith('rare_')] for k, b in recall.items()})
    curves = {k: [((i + 1) * rs[0]['tokens'] / len(rs[0]['curve']) / 1e6, [r['curve'][i] for r in rs if r['curve'][i] is not None]) for i in range(len(rs[0]['curve']))] for k, rs in by_kind.items()}
    figure(out, f'{corpus}_curve', f'{corpus}: training', 'M tokens', 'nats a piece', curves, False)


def memory(records, task, reference, out):
    for (width, state), rs in sorted(group(records, 'width', 'memory').items()):
        rates = chosen_rates(rs, lambda r: r['validation'], max)
        best = {k: [r for r in rs if r['kind'] == k and r['rate'] == rate] for k, (rate, _, _) in rates.items()}
        first = next(iter(rs[0]['test']))
        def facts(k): return ['rate', 'numbers a layer', 'parameters'] if k is None else [f"{rates[k][0]:g}{' (edge)' if rates[k][1] else ''}", best[k][0]['state'], best[k][0]['parameters']]
        name = f'{task}, width {width}, {state} thousand numbers a layer'
        score_table(f'## {name}: test accuracy ({first}) at the rate best on validation', {k: [r['test'][first] for r in v] for k, v in best.items()}, facts, reference, 1, 3)
        bin_table(f'### {name}: longer and other sequences', {k: {t: [r['test'][t] for r in v] for t in v[0]['test']} for k, v in best.items()})
        rows = [[k, cell([r['test'][first] for r in v], 3), cell([r['permuted'] for r in v], 3)] for k, v in best.items() if all('permuted' in r for r in v)]
        if rows:
            print(f'### {name}: the components of queries permuted\n')
            table(['kind', 'as trained', 'permuted'], rows)
        lengths = {k: [(int(''.join(c for c in t.split('x')[0] if c.isdigit())), [r['test'][t] for r in v]) for t in v[0]['test']
                       if t.split('x')[-1] == first.split('x')[-1] or 'x' not in t] for k, v in best.items()}
        figure(out, f'{task}_{width}_{state}', name.replace('_', ' '), 'tokens', 'accuracy', {k: sorted(v) for k, v in lengths.items()})


def needles(files, out):
    """Of the C++ program's --json, by the checkpoint's name; a checkpoint's seeds are those of streams, not of trainings."""
    runs = {Path(f).stem: json.loads(Path(f).read_text()) for f in files}
    lengths = sorted({a['length'] for r in runs.values() for a in r['answers']})
    print('## Needles in a stream, in C++: right answers by the bytes since the start, and the bytes of a state\n')
    share = {k: {a['length']: a['right'] / a['asked'] for a in r['answers']} for k, r in runs.items()}
    table(['model'] + [str(n) for n in lengths] + ['asked', 'state'], [[k] + [f'{share[k][n]:.3f}' if n in share[k] else '' for n in lengths] +
                                                    [r['answers'][0]['asked'], max(a['state_bytes'] for a in r['answers'])] for k, r in runs.items()])
    figure(out, 'needles', 'needles in a stream', 'bytes since the needles', 'right answers', {k: [(n, [v]) for n, v in s.items()] for k, s in share.items()})


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument('records', nargs='*'); a.add_argument('--needles', nargs='*', default=[]); a.add_argument('--against', default='gate_exact'); a.add_argument('--out')
    o = a.parse_args()
    if o.out: Path(o.out).mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for f in o.records for line in open(f) if line.strip()]
    for task, rs in group(records, 'task').items():
        if task == 'language':
            for corpus, mine in group(rs, 'corpus').items(): language(mine, corpus, o.against, o.out)
        else: memory(rs, task, o.against, o.out)
    if o.needles: needles(o.needles, o.out)


if __name__ == '__main__': main()
