# SPDX-License-Identifier: MIT
"""analyse.py RECORDS.jsonl ...: the tables of RESULTS.md, by the rule in README.md. Standard library alone."""
import json, math, sys

REFERENCE = 'gate'


def t_tail(t, df):
    """P(|T| > t) of Student's t: the integral of its density, by Simpson's rule in x = sqrt(df) tan(u)."""
    log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(math.pi)
    a, n = math.atan(abs(t) / math.sqrt(df)), 2000
    f = lambda u: math.cos(u) ** (df - 1)
    h = a / n
    inner = h / 3 * sum((1 if i in (0, n) else 4 if i % 2 else 2) * f(i * h) for i in range(n + 1))
    return max(0.0, 1 - 2 * math.exp(log_c) * inner)


def t_quantile(df, p=0.05):
    low, high = 0.0, 1000.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > p else (low, middle)
    return high


def mean(x): return sum(x) / len(x)
def variance(x): return sum((v - mean(x)) ** 2 for v in x) / (len(x) - 1)
def half_width(x): return t_quantile(len(x) - 1) * math.sqrt(variance(x) / len(x))


def welch(a, b):
    """Difference of means a - b, half its 95 % interval, two-sided p."""
    va, vb = variance(a) / len(a), variance(b) / len(b)
    if va + vb == 0: return mean(a) - mean(b), 0.0, 1.0 if mean(a) == mean(b) else 0.0
    df = (va + vb) ** 2 / (va ** 2 / (len(a) - 1) + vb ** 2 / (len(b) - 1))
    se = math.sqrt(va + vb)
    return mean(a) - mean(b), t_quantile(df) * se, t_tail((mean(a) - mean(b)) / se, df)


def holm(ps):
    """name -> p after Holm's correction."""
    result, worst = {}, 0.0
    for i, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, p * (len(ps) - i)))
        result[name] = worst
    return result


def table(header, rows):
    print('| ' + ' | '.join(header) + ' |\n|' + '---|' * len(header))
    for row in rows: print('| ' + ' | '.join(str(c) for c in row) + ' |')
    print()


def group(records, *keys):
    out = {}
    for r in records: out.setdefault(tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]], []).append(r)
    return out


def language(records, vocabulary):
    bracket, final = (group([r for r in records if r['stage'] == s], 'kind') for s in ('bracket', 'final'))
    final = {k: rs for k, rs in final.items() if all(r['test'] is not None for r in rs)}
    print(f'## Language, vocabulary {vocabulary}: validation loss by rate (bracket)\n')
    rates = sorted({r['rate'] for rs in bracket.values() for r in rs})
    rows = []
    for kind, rs in bracket.items():
        by = {rate: [r['validation'] for r in g] for rate, g in group(rs, 'rate').items()}
        cell = lambda v: '' if not v else 'diverged' if None in v else f'{mean(v):.4f}'
        best = min(by, key=lambda rate: math.inf if None in by[rate] else mean(by[rate]))
        rows.append([kind] + [f'**{cell(by[r])}**' if r == best else cell(by.get(r)) for r in rates] + [len(by[best])])
    table(['kind'] + [f'{r:g}' for r in rates] + ['seeds a rate'], rows)
    if REFERENCE not in final: return {}
    tests = {k: [r['test'] for r in rs] for k, rs in final.items()}
    compared = {k: welch(tests[k], tests[REFERENCE]) for k in tests if k != REFERENCE and len(tests[k]) > 1}
    corrected = holm({k: c[2] for k, c in compared.items()})
    print(f'## Language, vocabulary {vocabulary}: test loss of fresh seeds at the best rate, nats a token\n')
    rows = []
    for kind in sorted(tests, key=lambda k: mean(tests[k])):
        r, x = final[kind][0], tests[kind]
        row = [kind, f'{r["rate"]:g}', f'{mean(x):.4f} ± {half_width(x):.4f}', f'{math.sqrt(variance(x)):.4f}', len(x)]
        if kind in compared:
            d, w, p = compared[kind]
            row += [f'{d:+.4f} [{d - w:+.4f}, {d + w:+.4f}]', f'{p:.2g}', f'{corrected[kind]:.2g}']
        else: row += ['', '', '']
        rows.append(row + [r['parameters'], r['state'], f'{mean([q["ms_per_step"] for q in final[kind]]):.2f}', r['device'].replace('NVIDIA ', '')])
    table(['kind', 'rate', 'mean ± 95 %', 'sd', 'n', f'less {REFERENCE} [95 %]', 'Welch p', 'Holm p', 'parameters', 'state a layer',
           'ms a step of a model', 'device'], rows)
    return compared


def recall(records):
    settings = sorted({(r['memory'], r['pairs']) for r in records})
    print('## Recall: test accuracy at the rate best on validation\n')
    scores, rows = {}, []
    for kind, rs in group(records, 'kind').items():
        row, by_seed = [kind], {}
        for setting in settings:
            mine = [r for r in rs if (r['memory'], r['pairs']) == setting]
            if not mine:
                row.append('')
                continue
            by = group(mine, 'rate')
            best = max(by, key=lambda rate: mean([r['validation'] for r in by[rate]]))
            for r in by[best]: by_seed.setdefault(r['seed'], []).append(r['test'])
            row.append(f'{mean([r["test"] for r in by[best]]):.3f} ({min(r["test"] for r in by[best]):.3f} to '
                       f'{max(r["test"] for r in by[best]):.3f}) at {best:g}')
        complete = [mean(v) for v in by_seed.values() if len(v) == len(settings)]
        if len(complete) > 1: scores[kind] = complete
        rows.append((mean(complete) if complete else -1, row))
    compared = {k: welch(scores[k], scores[REFERENCE]) for k in scores if k != REFERENCE} if REFERENCE in scores else {}
    corrected = holm({k: c[2] for k, c in compared.items()})
    out = []
    for score, row in sorted(rows, key=lambda r: -r[0]):
        k = row[0]
        row.append(f'{mean(scores[k]):.3f} ± {half_width(scores[k]):.3f} (n {len(scores[k])})' if k in scores else '')
        if k in compared:
            d, w, p = compared[k]
            row += [f'{d:+.3f} [{d - w:+.3f}, {d + w:+.3f}]', f'{p:.2g}', f'{corrected[k]:.2g}']
        else: row += ['', '', '']
        out.append(row)
    table(['kind'] + [f'{m} k numbers, {p} pairs' for m, p in settings] + ['score ± 95 %', f'less {REFERENCE}', 'Welch p', 'Holm p'], out)
    return compared


def decide(l, r):
    print(f'## The rule, against {REFERENCE}\n')
    rows = []
    for kind in sorted(set(l) | set(r)):
        say = lambda c, sign: 'not run' if c is None else ('better' if c[0] * sign > 0 else 'worse') if c[2] < 0.05 else 'no difference shown'
        a, b = say(l.get(kind), -1), say(r.get(kind), 1)
        rows.append([kind, a, b, 'yes' if 'better' in (a, b) and 'worse' not in (a, b) and 'not run' not in (a, b) else 'no'])
    table(['kind', 'language', 'recall', 'goes in'], rows)


def main():
    records = [json.loads(line) for f in sys.argv[1:] for line in open(f) if line.strip()]
    l = {}
    for vocabulary, rs in group([r for r in records if r['task'] == 'language'], 'vocabulary').items():
        compared = language(rs, vocabulary)
        if vocabulary == 256: l = compared
    rs = [r for r in records if r['task'] == 'recall']
    r = recall(rs) if rs else {}
    if l or r: decide(l, r)


if __name__ == '__main__': main()
