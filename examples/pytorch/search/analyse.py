# SPDX-License-Identifier: MIT
"""analyse.py RECORDS.jsonl ... [--against KIND]: the tables of RESULTS.md, by the rule in README.md. Standard library alone."""
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
    print(f'## Language, vocabulary {vocabulary}: validation loss by rate (bracket)\n')
    rates = sorted({r['rate'] for rs in bracket.values() for r in rs})
    rows, chosen = [], {}
    for kind, rs in bracket.items():
        by = {rate: [r['validation'] for r in g] for rate, g in group(rs, 'rate').items()}
        cell = lambda v: '' if not v else 'diverged' if None in v else f'{mean(v):.4f}'
        best = min(by, key=lambda rate: math.inf if None in by[rate] else mean(by[rate]))
        chosen[kind] = best
        rows.append([kind] + [f'**{cell(by[r])}**' if r == best else cell(by.get(r)) for r in rates] + [len(by[best])])
    table(['kind'] + [f'{r:g}' for r in rates] + ['seeds a rate'], rows)
    final = {k: [r for r in rs if r['rate'] == chosen.get(k, r['rate'])] for k, rs in final.items()}   # those at a rate that a wider grid overruled are left out
    final = {k: rs for k, rs in final.items() if rs and all(r['test'] is not None for r in rs)}
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
        rows.append(row + [r['parameters'], r['state']])
    table(['kind', 'rate', 'mean ± 95 %', 'sd', 'n', f'less {REFERENCE} [95 %]', 'Welch p', 'Holm p', 'parameters', 'state a layer'], rows)
    return compared


def recall(records):
    """The rule's score needs every setting; kinds that were run with the smallest memory alone are compared on that."""
    settings = sorted({(r['memory'], r['pairs']) for r in records})
    small = [s for s in settings if s[0] == settings[0][0]]
    cells, by_seed = {}, {}
    for kind, rs in group(records, 'kind').items():
        for setting, mine in group(rs, 'memory', 'pairs').items():
            by = group(mine, 'rate')
            best = max(by, key=lambda rate: mean([r['validation'] for r in by[rate]]))
            x = [r['test'] for r in by[best]]
            cells[kind, setting] = f'{mean(x):.3f} ({min(x):.3f} to {max(x):.3f}) at {best:g}'
            for r in by[best]: by_seed.setdefault(kind, {}).setdefault(r['seed'], {})[setting] = r['test']
    print('## Recall: test accuracy at the rate best on validation, mean (lowest to highest seed)\n')
    kinds = sorted(by_seed, key=lambda k: -mean([mean([v[s] for s in small]) for v in by_seed[k].values()]))
    table(['kind'] + [f'{m} k numbers, {p} pairs' for m, p in settings], [[k] + [cells.get((k, s), '') for s in settings] for k in kinds])
    results = []
    for name, wanted in ((f'{small[0][0]} k numbers', small), ('every setting, the rule\'s score', settings)):
        scores = {k: [mean([v[s] for s in wanted]) for v in by_seed[k].values() if all(s in v for s in wanted)] for k in kinds}
        scores = {k: x for k, x in scores.items() if len(x) > 1}
        result = {k: welch(scores[k], scores[REFERENCE]) for k in scores if k != REFERENCE} if REFERENCE in scores else {}
        corrected = holm({k: c[2] for k, c in result.items()})
        print(f'### Scores over {name}\n')
        rows = []
        for k, x in scores.items():
            row = [k, f'{mean(x):.3f} ± {half_width(x):.3f}', len(x)]
            d, w, p = result.get(k, (0, 0, 0))
            rows.append(row + ([f'{d:+.3f} [{d - w:+.3f}, {d + w:+.3f}]', f'{p:.2g}', f'{corrected[k]:.2g}'] if k in result else ['', '', '']))
        table(['kind', 'score ± 95 %', 'n', f'less {REFERENCE} [95 %]', 'Welch p', 'Holm p'], rows)
        results.append(result)
    return results


def decide(l, small, r):
    print(f'## The rule, against {REFERENCE}\n')
    rows = []
    for kind in sorted(set(l) | set(small)):
        say = lambda c, sign: 'not run' if c is None else ('better' if c[0] * sign > 0 else 'worse') if c[2] < 0.05 else 'no difference shown'
        a, b = say(l.get(kind), -1), say(r.get(kind), 1)
        rows.append([kind, a, say(small.get(kind), 1), b, 'yes' if 'better' in (a, b) and 'worse' not in (a, b) and 'not run' not in (a, b) else 'no'])
    table(['kind', 'language, bytes', 'recall, 8 k', 'recall, every setting', 'goes in'], rows)


def main():
    global REFERENCE
    files = sys.argv[1:]
    if '--against' in files:
        at = files.index('--against')
        REFERENCE = files[at + 1]
        files = files[:at] + files[at + 2:]
    records = [json.loads(line) for f in files for line in open(f) if line.strip()]
    l = {}
    for vocabulary, rs in group([r for r in records if r['task'] == 'language'], 'vocabulary').items():
        compared = language(rs, vocabulary)
        if vocabulary == 256: l = compared
    rs = [r for r in records if r['task'] == 'recall']
    small, r = recall(rs) if rs else ({}, {})
    if l or r: decide(l, small, r)


if __name__ == '__main__': main()
