#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden cases for gma: every output and every gradient, computed without gma.

This file is a second implementation of Gaussian Mixture Attention, in float64 and as plain as the equations. It shares
nothing with the C++ library: no natural parameters, no tiles, no hand-written gradients. Densities are evaluated from
their definition, the memory is advanced one token at a time, and the gradients are those of HIPS autograd.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install autograd
    /tmp/golden/bin/python tests/golden/generate.py          # rewrites tests/golden/cases.txt, takes seconds

Each case draws its inputs from a generator seeded by its own name, so adding a case leaves the others as they were.
Another version of NumPy may change the last digits of results.

The letters: N tokens, K components (K_m of factor m), d routing width, e value width. One token is one row.

    (1)  log p(x, k) = log pi_k + log Normal(x; mu_k, Sigma_k)                    pi = softmax(weight_logits)
    (2)  r_k(x)      = softmax_k(log p(x, k) / tau)                              tau = exp(log_temperature)
    (8)  M(t) = lambda_t M(t-1) + w_t r(key_t) v_t^T,   m(t) = lambda_t m(t-1) + w_t r(key_t),   lambda_t = exp(g_t)
    (4)  none   y = sum_k q_k M_k
    (5)  slot   y = sum_k q_k M_k / m_k
    (6)  row    y = sum_k q_k M_k / sum_k q_k m_k                                q = r(query)
    (10) as (8), with lambda_tk = exp(g_t + s_tk) for slot k
    (7)  the same as a dense affinity A between queries and keys, y = A v

Before a case is written it is checked twice: the recurrence (8) against the dense form (7), and the gradients against a
central difference along a random direction. The generator stops on a disagreement.
"""

import dataclasses
import math
import pathlib
import zlib
from typing import Optional, Tuple

import autograd
import autograd.numpy as anp
import numpy as np

# Division is by max(mass, TINY), and a mass below TINY has no gradient: a slot without mass reads as zero.
TINY = 2.0**-40


# --------------------------------------------------------------------------------------------------------------------
# Mixtures. A factor is a dict of weight_logits [K], means [K, d], log_scales (by family) and log_temperature []. A
# mixture is a list of factors: one for a plain mixture, several for a product mixture, which splits x in factor order.
# --------------------------------------------------------------------------------------------------------------------


def log_sum_exp(logits):
    """Over the last axis."""
    largest = anp.max(logits, axis=-1, keepdims=True)
    return anp.log(anp.sum(anp.exp(logits - largest), axis=-1)) + largest[..., 0]


def softmax(logits):
    return anp.exp(logits - log_sum_exp(logits)[..., None])


def log_joint(covariance, factor, x):
    """(1) for every token and component: [N, d] -> [N, K]."""
    log_weights = factor["weight_logits"] - log_sum_exp(factor["weight_logits"])
    difference = x[:, None, :] - factor["means"][None, :, :]  # [N, K, d]
    d = x.shape[1]
    if covariance == "full":
        # Row k of log_scales is L_k row-major, Sigma_k^-1 = L_k L_k^T, the diagonal stored as logs. What lies above is
        # not part of the parameter: `where` replaces it before it can meet anything else, so its gradient is zero.
        stored = anp.reshape(factor["log_scales"], (-1, d, d))
        log_diagonal = anp.sum(anp.where(np.eye(d) > 0, stored, 0.0), axis=2)
        below = anp.where(np.tri(d, k=-1) > 0, stored, 0.0)
        L = below + anp.exp(log_diagonal)[:, :, None] * np.eye(d)
        whitened = anp.einsum("kij,nki->nkj", L, difference)  # L^T (x - mu)
        log_determinant = log_diagonal.sum(axis=1)
    else:
        # The three axis-aligned families differ only in the shape of log_scales: K x 1 (isotropic), K x d (diagonal),
        # 1 x d (tied). Broadcast to K x d they are the log standard deviations of every component and coordinate.
        log_deviation = factor["log_scales"] + np.zeros(factor["means"].shape)
        whitened = difference * anp.exp(-log_deviation)
        log_determinant = -log_deviation.sum(axis=1)
    log_normal = -0.5 * d * math.log(2 * math.pi) + log_determinant - 0.5 * (whitened**2).sum(axis=2)
    return log_weights + log_normal


def split(factors, x):
    """The columns of x that belong to each factor."""
    widths = [f["means"].shape[1] for f in factors]
    ends = np.cumsum(widths)
    return [x[:, end - width : end] for end, width in zip(ends, widths)]


def responsibilities(covariance, factors, x):
    """(2): [N, d] -> [N, K]. Slots of a product are counted row-major over the factors, the last one fastest."""
    r = np.ones((x.shape[0], 1))
    for factor, part in zip(factors, split(factors, x)):
        tempered = log_joint(covariance, factor, part) / anp.exp(factor["log_temperature"])
        r_m = softmax(tempered)
        r = anp.reshape(r[:, :, None] * r_m[:, None, :], (x.shape[0], r.shape[1] * r_m.shape[1]))
    return r


def log_density(covariance, factors, x):
    """log p(x): [N, d] -> [N]. With all its constants and without the temperature; the factors of a product add up."""
    parts = zip(factors, split(factors, x))
    return sum(log_sum_exp(log_joint(covariance, f, part)) for f, part in parts)


# --------------------------------------------------------------------------------------------------------------------
# Tokens. A weight of zero says that the token is not there: it does not write, it does not forget, and whatever its
# key, its value and its g contain reaches nothing. Autodiff multiplies, and zero times NaN is NaN; so such a token is
# replaced by an ordinary one before its first use, and the gradient of what was replaced is zero.
# --------------------------------------------------------------------------------------------------------------------


def present_tokens(inputs):
    """(keys [N, d], values [N, e], weights [N], lambda [N, K] or [N, 1], sum of g) with absent tokens made harmless."""
    keys, values = inputs["keys"], inputs["values"]
    n = keys.shape[0]
    w = inputs["key_weights"] if "key_weights" in inputs else np.ones(n)
    g = inputs["log_forgetting"] if "log_forgetting" in inputs else np.zeros(n)
    here = w != 0
    w = anp.where(here, w, 0.0)
    keys = anp.where(here[:, None], keys, 0.0)
    values = anp.where(here[:, None], values, 0.0)
    g = anp.where(here, g, 0.0)
    restart = g == -np.inf  # lambda = 0, and no gradient for this g
    finite_g = anp.where(restart, 0.0, g)
    decay = anp.where(restart, 0.0, anp.exp(finite_g))[:, None]
    if "slot_log_forgetting" in inputs:  # (10)
        s = anp.where(here[:, None], inputs["slot_log_forgetting"], 0.0)
        is_end = s == -np.inf
        decay = decay * anp.where(is_end, 0.0, anp.exp(anp.where(is_end, 0.0, s)))
    total = anp.sum(finite_g) + (-np.inf if np.any(restart) else 0.0)
    return keys, values, w, decay, total


# --------------------------------------------------------------------------------------------------------------------
# Memory: slots [K, e], mass [K], log_forgetting [], the total of g over everything the memory has seen.
# --------------------------------------------------------------------------------------------------------------------


def empty_memory(factors, e):
    k = math.prod(f["means"].shape[0] for f in factors)
    return {"slots": np.zeros((k, e)), "mass": np.zeros(k), "log_forgetting": 0.0}


def no_less_than_tiny(mass):
    """max(mass, TINY), with no gradient below."""
    return anp.where(mass > TINY, mass, TINY)


def read_one(normalization, q, slots, mass):
    """(4), (5) or (6) for one query's responsibilities q [K]."""
    if normalization == "none":
        return q @ slots
    if normalization == "slot":
        return q @ (slots / no_less_than_tiny(mass)[:, None])
    return (q @ slots) / no_less_than_tiny(q @ mass)


def advance(inputs, covariance, memory):
    """(8): the list of memories, before the first token and after each of them."""
    keys, values, w, decay, total = present_tokens(inputs)
    r = responsibilities(covariance, inputs["factors"], keys)
    states = [(memory["slots"], memory["mass"])]
    for t in range(keys.shape[0]):
        slots, mass = states[-1]
        slots = decay[t][:, None] * slots + w[t] * r[t][:, None] * values[t][None, :]
        mass = decay[t] * mass + w[t] * r[t]
        states.append((slots, mass))
    slots, mass = states[-1]
    return states, {"slots": slots, "mass": mass, "log_forgetting": memory["log_forgetting"] + total}


# --------------------------------------------------------------------------------------------------------------------
# The operators, each from a dict of inputs to a dict of outputs.
# --------------------------------------------------------------------------------------------------------------------


def starting_memory(inputs):
    return inputs["memory"] if "memory" in inputs else empty_memory(inputs["factors"], inputs["values"].shape[1])


def bidirectional(inputs, covariance, normalization):
    """All keys are written, then all queries read. With forgetting it is the memory after the last key that is read."""
    q = responsibilities(covariance, inputs["factors"], inputs["queries"])
    states, _ = advance(inputs, covariance, starting_memory(inputs))
    return {"output": anp.stack([read_one(normalization, q_i, *states[-1]) for q_i in q])}


def causal(inputs, covariance, normalization):
    """Token t reads after it was written. An absent token (weight 0) still reads: the weight is that of its key."""
    q = responsibilities(covariance, inputs["factors"], inputs["queries"])
    states, final = advance(inputs, covariance, starting_memory(inputs))
    output = anp.stack([read_one(normalization, q_t, *state) for q_t, state in zip(q, states[1:])])
    return {"output": output, "final_memory": final}


def write(inputs, covariance, normalization):
    _, final = advance(inputs, covariance, starting_memory(inputs))
    return {"final_memory": final}


def read(inputs, covariance, normalization):
    q = responsibilities(covariance, inputs["factors"], inputs["queries"])
    memory = inputs["memory"]
    return {"output": anp.stack([read_one(normalization, q_i, memory["slots"], memory["mass"]) for q_i in q])}


def density(inputs, covariance, normalization):
    return {
        "responsibilities": responsibilities(covariance, inputs["factors"], inputs["queries"]),
        "log_density": log_density(covariance, inputs["factors"], inputs["queries"]),
    }


def merge(inputs, covariance, normalization):
    """exp(b.g) a + b: the memory of the stretch a followed by the stretch b."""
    a, b = inputs["memory"], inputs["second_memory"]
    decay = anp.exp(b["log_forgetting"])
    return {
        "final_memory": {
            "slots": decay * a["slots"] + b["slots"],
            "mass": decay * a["mass"] + b["mass"],
            "log_forgetting": a["log_forgetting"] + b["log_forgetting"],
        }
    }


OPERATORS = {f.__name__: f for f in (bidirectional, causal, write, read, density, merge)}


def dense_affinity(inputs, covariance, normalization, is_causal):
    """(7): A [Nq, Nk]. Key j reaches query i decayed by every lambda after j, up to that of i (or of the last key)."""
    keys, _, w, decay, _ = present_tokens(inputs)
    q = responsibilities(covariance, inputs["factors"], inputs["queries"])
    r = responsibilities(covariance, inputs["factors"], keys)
    nq, nk = q.shape[0], keys.shape[0]
    reach = np.zeros((nq, nk, r.shape[1]))
    for i in range(nq):
        last = i if is_causal else nk - 1
        for j in range(last + 1):
            reach[i, j] = w[j] * np.prod(decay[j + 1 : last + 1], axis=0)
    if normalization == "slot":
        mass = np.einsum("ijk,jk->ik", reach, r)  # m_k as query i sees it: [Nq, K]
        q = q / no_less_than_tiny(mass)
    A = np.einsum("ik,ijk,jk->ij", q, reach, r)
    if normalization == "row":
        A = A / no_less_than_tiny(A.sum(axis=1, keepdims=True))
    return A


# --------------------------------------------------------------------------------------------------------------------
# Cases: what varies, and how the inputs of a case are drawn. Inputs are rounded to three decimals, which keeps the file
# small and readable; they are exact all the same, since every reader of decimal text agrees on the nearest double.
# --------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    name: str
    operator: str
    covariance: str = "diagonal"
    normalization: str = "slot"
    components: Tuple[int, ...] = (4,)  # K_m of every factor
    widths: Tuple[int, ...] = (3,)  # d_m of every factor
    product: bool = False  # a ProductMixture, if only of one factor
    e: int = 2
    queries: int = 6
    keys: Optional[int] = None  # as many as queries unless said
    temperature: bool = True  # log_temperature other than 0
    weights: Optional[str] = None  # soft, masked, absent, faint, faint first
    forgetting: Optional[str] = None  # gentle, restarts, always
    by_slot: bool = False  # every slot has a forgetting of its own, too
    memory: bool = False  # continues from a memory that is not empty
    upstream: Tuple[str, ...] = ()  # parts of the final memory that have an upstream gradient
    second_forgetting: float = -0.4  # merge: b.g
    spread: float = 1.0  # scale of queries and keys; means stay at scale 1
    garbage_triangle: bool = False  # NaN above the diagonal of a full factor
    affinity: bool = False  # also write A
    vanishing: Tuple[str, ...] = ()  # results that are zero in exact arithmetic, "*" for all gradients


def draw_factor(case, random, k, d):
    shape = {"isotropic": (k, 1), "diagonal": (k, d), "tied": (1, d), "full": (k, d * d)}[case.covariance]
    log_scales = random.normal(0, 0.35, shape)
    if case.garbage_triangle:
        above = np.triu(np.ones((d, d)), 1).reshape(-1) > 0
        log_scales[:, above] = np.nan
    return {
        "weight_logits": random.normal(0, 0.5, k),
        "means": random.normal(0, 1, (k, d)),
        "log_scales": log_scales,
        "log_temperature": np.array(random.uniform(0.2, 0.8) if case.temperature else 0.0),
    }


def draw_memory(random, k, e, log_forgetting):
    return {
        "slots": random.normal(0, 1, (k, e)),
        "mass": random.uniform(0.5, 3, k),
        "log_forgetting": np.array(log_forgetting),
    }


def draw_tokens(case, random, inputs, n):
    """key_weights and log_forgetting, and what must be ignored behind a weight of zero."""
    w = random.uniform(0.2, 2, n)
    absent = np.zeros(n, bool)
    if case.weights == "masked":
        absent = np.arange(n) % 3 == random.integers(3)
    elif case.weights == "absent":
        absent[:] = True
    elif case.weights == "faint":
        w = random.uniform(1, 9, n) * 1e-15  # whatever they sum to, every mass stays below TINY
    elif case.weights == "faint first":
        w = np.where(np.arange(n) < n // 2, random.uniform(1, 9, n) * 1e-15, w)
    w[absent] = 0
    if case.weights:
        inputs["key_weights"] = w
    g = -random.uniform(0.02, 1.2, n)
    if case.forgetting == "always":
        g[:] = -np.inf
    if case.forgetting == "restarts":
        candidates = [j for j in range(1, n) if not absent[j]]
        g[candidates[len(candidates) // 2]] = -np.inf
    for count, j in enumerate(np.flatnonzero(absent)):
        # Behind a zero: neither NaN nor infinity, nor a growth instead of a decay, nor a restart may be noticed.
        g[j] = (-np.inf, np.nan, 7.0, np.inf)[count % 4]
        inputs["keys"][j] = (np.nan, np.inf)[count % 2]
        inputs["values"][j] = (np.inf, np.nan, -np.inf)[count % 3]
    if case.forgetting:
        inputs["log_forgetting"] = g
    if case.by_slot:
        s = -random.uniform(0.02, 1.2, (n, math.prod(case.components)))
        s[random.uniform(0, 1, s.shape) < 0.1] = 0
        present = np.flatnonzero(~absent)
        s[present[len(present) // 2], 1] = -np.inf  # a restart of one slot
        s[absent] = np.nan
        inputs["slot_log_forgetting"] = s


def draw_inputs(case):
    """(inputs, upstream gradients) of a case, both nested dicts of arrays."""
    random = np.random.default_rng(zlib.crc32(case.name.encode()))
    k, d, e = math.prod(case.components), sum(case.widths), case.e
    nq = case.queries
    nk = case.queries if case.keys is None else case.keys
    inputs = {"factors": [draw_factor(case, random, *shape) for shape in zip(case.components, case.widths)]}
    if case.operator in ("bidirectional", "causal", "read", "density"):
        inputs["queries"] = random.normal(0, case.spread, (nq, d))
    if case.operator in ("bidirectional", "causal", "write"):
        inputs["keys"] = random.normal(0, case.spread, (nk, d))
        inputs["values"] = random.normal(0, 1, (nk, e))
        if case.weights or case.forgetting or case.by_slot:
            draw_tokens(case, random, inputs, nk)
    if case.memory:
        inputs["memory"] = draw_memory(random, k, e, -0.7)
    if case.operator == "merge":
        inputs["second_memory"] = draw_memory(random, k, e, case.second_forgetting)
        del inputs["factors"]

    upstream = {}
    if case.operator in ("bidirectional", "causal", "read"):
        upstream["output"] = random.normal(0, 1, (nq, e))
    if case.upstream:
        full = {"slots": random.normal(0, 1, (k, e)), "mass": random.normal(0, 1, k), "log_forgetting": np.array(1.25)}
        upstream["final_memory"] = {name: a if name in case.upstream else 0 * a for name, a in full.items()}

    return rounded(inputs), rounded(upstream)


def rounded(tree):
    if isinstance(tree, dict):
        return {name: rounded(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return np.where(np.abs(tree) > 1e-6, np.round(tree, 3), tree)  # faint weights keep their digits


COVARIANCES = ("isotropic", "diagonal", "tied", "full")
NORMALIZATIONS = ("none", "slot", "row")
STATE = ("slots", "mass")


# fmt: off
def all_cases():
    # Every covariance under every normalisation. Bidirectional: fewer queries than keys, the plain posterior (tau = 1).
    for c in COVARIANCES:
        for n in NORMALIZATIONS:
            yield Case(f"bidirectional {c} {n}", "bidirectional", c, n, queries=5, keys=7, temperature=False,
                       affinity=True)
            yield Case(f"causal {c} {n}", "causal", c, n, e=3, widths=(2,), affinity=True)

    # A stream goes on from a memory, with everything that can happen to a token, and its final memory is used further.
    for c in COVARIANCES:
        for n in NORMALIZATIONS:
            yield Case(f"resumed {c} {n} masked with restart", "causal", c, n, (3,), (2,), queries=8, weights="masked",
                       forgetting="restarts", memory=True, upstream=STATE)
    for n in NORMALIZATIONS:
        yield Case(f"resumed diagonal {n} forgetting", "causal", "diagonal", n, (3,), (2,), weights="masked",
                   forgetting="gentle", memory=True, upstream=STATE)
    yield Case("resumed tied slot without token inputs", "causal", "tied", memory=True, upstream=STATE, queries=5)
    yield Case("resumed one step", "causal", queries=1, forgetting="gentle", memory=True, upstream=STATE)
    yield Case("resumed through absent tokens only", "causal", queries=4, weights="absent", forgetting="gentle",
               memory=True, upstream=STATE,
               vanishing=("keys", "values", "key_weights", "log_forgetting"))
    yield Case("resumed with a gradient of the total forgetting", "causal", "isotropic", queries=5, weights="masked",
               forgetting="gentle", memory=True, upstream=STATE + ("log_forgetting",))
    yield Case("prefill from an empty memory", "causal", "full", widths=(2,), forgetting="gentle", upstream=STATE)

    # Token inputs one at a time and together, without an incoming memory.
    for n in NORMALIZATIONS:
        yield Case(f"bidirectional {n} masked with restart", "bidirectional", "diagonal", n, queries=4, keys=8,
                   weights="masked", forgetting="restarts", affinity=True)
        yield Case(f"causal {n} masked with restart", "causal", "tied", n, queries=8, widths=(2,), weights="masked",
                   forgetting="restarts", affinity=True)
    yield Case("bidirectional full weights", "bidirectional", "full", widths=(2,), queries=4, keys=6, weights="soft")
    yield Case("bidirectional full masked", "bidirectional", "full", widths=(2,), queries=4, keys=7, weights="masked")
    yield Case("bidirectional isotropic forgetting", "bidirectional", "isotropic", queries=4, keys=6,
               forgetting="gentle")
    yield Case("causal isotropic weights", "causal", "isotropic", "row", weights="soft")
    yield Case("causal diagonal masked", "causal", "diagonal", "slot", queries=7, weights="masked")
    yield Case("causal diagonal forgetting", "causal", "diagonal", "slot", forgetting="gentle")
    yield Case("causal full restart", "causal", "full", "row", widths=(2,), forgetting="restarts")

    # Slots that forget at their own rates.
    for n in NORMALIZATIONS:
        yield Case(f"by slot {n}", "causal", "diagonal", n, forgetting="gentle", by_slot=True, affinity=True)
        yield Case(f"by slot resumed {n}", "causal", "tied", n, (2, 3), (2, 1), True, queries=8, weights="masked",
                   forgetting="restarts", by_slot=True, memory=True, upstream=STATE)
    yield Case("by slot alone", "causal", "isotropic", by_slot=True, queries=9)
    yield Case("by slot write", "write", "full", widths=(2,), weights="masked", by_slot=True, memory=True,
               upstream=STATE)
    yield Case("by slot fifty tokens", "causal", "diagonal", "slot", (5,), (2,), queries=50, weights="soft",
               by_slot=True, memory=True, upstream=STATE)

    # Product mixtures: factors of unequal sizes, each with a temperature of its own.
    for n in NORMALIZATIONS:
        yield Case(f"product of two bidirectional {n}", "bidirectional", "diagonal", n, (2, 3), (2, 1), True, queries=4,
                   keys=6, affinity=True)
        yield Case(f"product of two causal {n}", "causal", "diagonal", n, (3, 2), (1, 2), True, forgetting="gentle")
    for c in COVARIANCES:
        yield Case(f"product of two resumed {c}", "causal", c, "slot", (2, 3), (2, 3), True, queries=7,
                   weights="masked", forgetting="restarts", memory=True, upstream=STATE)
    yield Case("product of three bidirectional", "bidirectional", "isotropic", "row", (2, 3, 2), (1, 2, 1), True,
               queries=4, keys=7, weights="masked", forgetting="gentle")
    yield Case("product of three resumed", "causal", "full", "slot", (2, 1, 3), (2, 1, 3), True, queries=5,
               weights="masked", forgetting="gentle", memory=True, upstream=STATE,
               vanishing=("factors.1",))
    yield Case("product of one factor", "causal", "diagonal", "slot", (3,), (2,), True)

    # Bare reads and writes.
    for n in NORMALIZATIONS:
        yield Case(f"read {n}", "read", "diagonal", n, memory=True, queries=5)
        yield Case(f"product read {n}", "read", "full", n, (2, 3), (2, 1), True, memory=True, queries=5)
    yield Case("write into an empty memory", "write", "diagonal", upstream=STATE)
    yield Case("write masked with restart", "write", "tied", queries=8, weights="masked", forgetting="restarts",
               upstream=STATE)
    yield Case("write forgetting", "write", "isotropic", forgetting="gentle", upstream=STATE)
    yield Case("write onto a memory", "write", "full", widths=(2,), weights="masked", memory=True, upstream=STATE)
    yield Case("write onto a memory that forgets", "write", "diagonal", forgetting="gentle", memory=True,
               upstream=STATE)
    yield Case("product write masked forgetting", "write", "diagonal", "slot", (2, 3), (1, 2), True, weights="masked",
               forgetting="gentle", upstream=STATE)
    yield Case("merge", "merge", memory=True)
    yield Case("merge after a restart", "merge", memory=True, second_forgetting=-np.inf)

    # The mixture as a density, with a temperature that must not enter log p(x).
    for c in COVARIANCES:
        yield Case(f"density {c}", "density", c)
        yield Case(f"product density {c}", "density", c, "slot", (2, 4), (1, 3), True)
    yield Case("density far from every component", "density", "full", spread=12.0)
    yield Case("density of one component", "density", "diagonal", components=(1,), widths=(4,))

    # Corners. With one component, or one token where masses cancel, nothing depends on the routing.
    routing = ("queries", "keys", "factors")
    for n in NORMALIZATIONS:
        yield Case(f"one component causal {n}", "causal", "diagonal", n, (1,), (2,), vanishing=routing,
                   forgetting="gentle")
    yield Case("one component bidirectional", "bidirectional", "full", "slot", (1,), (2,), queries=3, keys=5,
               weights="soft", vanishing=routing)
    for n in ("slot", "row"):
        yield Case(f"one token {n}", "causal", "diagonal", n, queries=1, vanishing=routing)
    yield Case("one token none", "causal", "diagonal", "none", queries=1)
    yield Case("one query and one key", "bidirectional", "tied", "none", queries=1, keys=1, weights="soft")
    yield Case("no keys", "bidirectional", queries=3, keys=0, vanishing=("*", "output"))
    for n in ("slot", "row"):
        yield Case(f"absent tokens only {n}", "bidirectional", "diagonal", n, queries=3, keys=4, weights="absent",
                   forgetting="gentle", vanishing=("*", "output"))
        yield Case(f"every token restarts {n}", "causal", "diagonal", n, queries=4, forgetting="always", memory=True,
                   weights="soft", upstream=STATE,
                   vanishing=("queries", "memory", "log_forgetting"))
        yield Case(f"masses below tiny {n}", "bidirectional", "diagonal", n, queries=3, keys=5, weights="faint")
        yield Case(f"masses below tiny at first {n}", "causal", "diagonal", n, weights="faint first")
    yield Case("garbage above the diagonal", "causal", "full", "slot", garbage_triangle=True, queries=5)
    yield Case("tokens far from every component", "causal", "isotropic", "slot", queries=8, spread=4.0)
    yield Case("a hundred slots", "bidirectional", "tied", "slot", (10, 10), (1, 2), True, queries=3, keys=6, e=1)
    yield Case("wide", "causal", "diagonal", "slot", (9,), (17,), e=9, queries=3, forgetting="gentle")

    # Longer than a tile, and longer than the stretch between two checkpoints of the backward pass.
    for c in ("diagonal", "full"):
        yield Case(f"forty tokens {c}", "causal", c, "slot", (5,), (2,), e=1, queries=40, weights="masked",
                   forgetting="restarts", memory=True, upstream=STATE)
    yield Case("two hundred keys", "bidirectional", "diagonal", "slot", (3,), (1,), e=1, queries=3, keys=200,
               weights="masked")
    yield Case("two hundred and seventy tokens", "causal", "diagonal", "slot", (3,), (1,), e=1, queries=270,
               forgetting="gentle", memory=True, upstream=STATE)
# fmt: on


# --------------------------------------------------------------------------------------------------------------------
# Results and their checks.
# --------------------------------------------------------------------------------------------------------------------


def flatten(tree, prefix=""):
    """Nested dicts and lists of arrays as a flat dict: {"memory": {"mass": a}} is {"memory.mass": a}."""
    flat = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{prefix}.{key}" if prefix else str(key)
        flat.update(flatten(value, name) if isinstance(value, (dict, list)) else {name: value})
    return flat


def nest(flat):
    """The inverse, for inputs: the only list among them is that of the factors."""
    tree = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    if "factors" in tree:
        tree["factors"] = [tree["factors"][str(m)] for m in range(len(tree["factors"]))]
    return tree


def objective(case, flat_inputs, upstream):
    """The scalar whose gradients are recorded: every output times its upstream gradient, summed."""
    results = flatten(OPERATORS[case.operator](nest(flat_inputs), case.covariance, case.normalization))
    # An upstream gradient of zero is skipped rather than multiplied: a total forgetting of -inf is a valid output.
    return sum(anp.sum(results[k] * d) for k, d in flatten(upstream).items() if np.any(d != 0))


def gradients_of(case, flat_inputs, upstream):
    """A flat dict like the inputs. Autograd differentiates one argument at a time, so the dict is that argument."""
    return autograd.grad(lambda x: objective(case, x, upstream))(flat_inputs)


def check_gradients(case, flat_inputs, upstream, gradients):
    """A central difference along one random direction that moves only what is there and finite."""
    random = np.random.default_rng(1)
    absent = flat_inputs["key_weights"] == 0 if "key_weights" in flat_inputs else None

    def direction(name, a):
        step = np.where(np.isfinite(a), random.normal(0, 1, a.shape), 0)
        if name == "key_weights":
            step = step * a  # a relative step: zero stays zero and faint stays faint
        if absent is not None and name in ("keys", "values", "log_forgetting", "slot_log_forgetting"):
            step[absent] = 0
        return step

    steps = {name: direction(name, a) for name, a in flat_inputs.items()}
    h = 1e-6
    above = objective(case, {name: a + h * steps[name] for name, a in flat_inputs.items()}, upstream)
    below = objective(case, {name: a - h * steps[name] for name, a in flat_inputs.items()}, upstream)
    terms = [np.sum(gradients[name] * step) for name, step in steps.items()]
    scale = max(sum(abs(t) for t in terms), 1e-2)
    error = abs((above - below) / (2 * h) - sum(terms)) / scale
    assert error < 1e-7, f"{case.name}: autodiff differs from a central difference by {error}"


def check_dense(case, inputs, outputs):
    """(7) against (8), where there is no incoming memory."""
    A = dense_affinity(inputs, case.covariance, case.normalization, case.operator == "causal")
    _, values, _, _, _ = present_tokens(inputs)
    error = np.linalg.norm(A @ values - outputs["output"]) / max(np.linalg.norm(outputs["output"]), 1e-3)
    assert error < 1e-13, f"{case.name}: the dense form differs by {error}"
    return A


def settle(case, name, a):
    """Rounding noise around a result that is zero in exact arithmetic is written as zero.

    Tests compare relative to the size of the expected array, so nothing else may be that small; an array of exact zeros
    is fine (a restart cuts off the incoming memory, an absent token has no gradient).
    """
    vanishes = name in case.vanishing or any(name.startswith(v + ".") for v in case.vanishing)
    vanishes = vanishes or ("*" in case.vanishing and name not in ("output",))
    largest = np.max(np.abs(a), initial=0.0)
    if vanishes:
        assert largest < 1e-14, f"{case.name}: {name} should vanish and is {largest}"
        return np.zeros_like(a)
    assert largest == 0 or largest > 1e-6, f"{case.name}: {name} vanishes unexpectedly"
    assert not np.isnan(a).any(), f"{case.name}: {name} has NaN"
    return a


def results_of(case, inputs, upstream):
    """Everything a test may expect of a case: outputs, the affinity if asked for, and gradients as "grad.<input>"."""
    outputs = flatten(OPERATORS[case.operator](inputs, case.covariance, case.normalization))
    if case.operator == "causal" and not (case.memory or case.upstream):
        outputs = {"output": outputs["output"]}  # the form without a memory has no other output
    expected = {}
    if case.operator in ("bidirectional", "causal") and not case.memory:
        A = check_dense(case, inputs, outputs)
        if case.affinity:
            expected["affinity"] = A
    for name, a in outputs.items():
        expected[name] = a if name.endswith("log_forgetting") else settle(case, name, a)
    if upstream:
        flat_inputs = flatten(inputs)
        gradients = gradients_of(case, flat_inputs, upstream)
        check_gradients(case, flat_inputs, upstream, gradients)
        for name, a in gradients.items():
            unused = name == "memory.log_forgetting"  # it reaches the total of the final memory and nothing else
            expected[f"grad.{name}"] = a if unused else settle(case, name, a)
    return expected


# --------------------------------------------------------------------------------------------------------------------
# The file: words and numbers separated by white space; `#` starts a comment. The numbers are the shortest that read
# back as the same double. A scalar is 1 x 1, a vector n x 1, a matrix row-major.
#
#     gma-golden 1 cases <count>
#     case <operator> <covariance> <normalization> <plain|product> <number of factors> <name, quoted>
#     tensor <name> <rows> <columns> <numbers>
#     end
# --------------------------------------------------------------------------------------------------------------------


def write_tensor(out, name, a):
    a = np.asarray(a)
    rows = a.shape[0] if a.ndim else 1
    columns = a.shape[1] if a.ndim == 2 else 1
    out.append(f"tensor {name} {rows} {columns}")
    for line in a.reshape(1, -1) if columns == 1 else a:
        if line.size:
            out.append(" ".join(shortest(v) for v in line))


def shortest(value):
    text = repr(float(value))
    return text[:-2] if text.endswith(".0") else text


def main():
    cases = list(all_cases())
    names = [c.name for c in cases]
    assert len(set(names)) == len(names), "two cases share a name"
    out = [
        "# SPDX-License-Identifier: MIT",
        "# Written by generate.py, which explains the format; do not edit.",
        f"gma-golden 1 cases {len(cases)}",
    ]
    for case in cases:
        print(case.name, flush=True)
        inputs, upstream = draw_inputs(case)
        kind = "product" if case.product else "plain"
        factors = 0 if case.operator == "merge" else len(case.components)
        out += ["", f'case {case.operator} {case.covariance} {case.normalization} {kind} {factors} "{case.name}"']
        for name, a in flatten(inputs).items():
            write_tensor(out, name, a)
        for name, a in flatten(upstream).items():
            write_tensor(out, f"d_{name}", a)
        for name, a in results_of(case, inputs, upstream).items():
            write_tensor(out, name, a)
        out.append("end")
    path = pathlib.Path(__file__).with_name("cases.txt")
    path.write_text("\n".join(out) + "\n")
    print(f"{len(cases)} cases, {path.stat().st_size / 1024:.0f} KiB, NumPy {np.__version__}")


if __name__ == "__main__":
    main()
