#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A peer: torch.nn.functional.scaled_dot_product_attention on the CPU, at the shapes of the benchmarks.

Prints one JSON object a line: program, dtype, causal, tokens, heads, threads, seconds a head (median, quartiles,
smallest), useful GFLOP/s counted as gma_bench_report counts them, the rate of a large product of torch's in the same
rounds, and the relative error against a computation in double. Needs PyTorch 2.0 or later; without it, it says so and
returns 77, which ctest takes for skipped.

  pip install torch --index-url https://download.pytorch.org/whl/cpu      (or plain: pip install torch)
  python3 bench/peers/pytorch_sdpa.py --n 2048 8192 --threads 1 --causal both
"""
import argparse
import json
import os
import statistics
import sys
import time

SKIPPED = 77


def arguments():
    parser = argparse.ArgumentParser(description="PyTorch's softmax attention on the CPU, JSON lines")
    parser.add_argument("--n", type=int, nargs="+", default=[2048, 8192], help="lengths")
    parser.add_argument("--heads", type=int, default=8, help="heads per call")
    parser.add_argument("--width", type=int, default=64, help="d = e")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--causal", default="both", choices=["no", "yes", "both"])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rounds", type=int, default=11, help="samples per program")
    parser.add_argument("--cpu", type=int, default=None, help="stay on this CPU (Linux, one thread only)")
    parser.add_argument("--quick", action="store_true", help="256 tokens, 2 heads, 3 rounds: only checks that everything works")
    options = parser.parse_args()
    if options.quick:
        options.n, options.heads, options.rounds = [256], 2, 3
    return options


def import_torch(threads):
    """torch, told before it loads how many threads it may start."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    try:
        import torch
    except ImportError as error:
        print(f"pytorch_sdpa.py: PyTorch cannot be imported ({error}). Install it with: pip install torch --index-url "
              "https://download.pytorch.org/whl/cpu (or from PyPI: pip install torch)", file=sys.stderr)
        sys.exit(SKIPPED)
    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        print(f"pytorch_sdpa.py: PyTorch {torch.__version__} has no scaled_dot_product_attention; 2.0 or later is "
              "needed", file=sys.stderr)
        sys.exit(SKIPPED)
    torch.set_num_threads(threads)
    return torch


def timed(call, calls):
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def numbers(samples):
    lower, median, upper = (statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1
                            else (samples[0],) * 3)
    return {"median": median, "quartiles": [lower, upper], "smallest": min(samples)}


def main():
    options = arguments()
    torch = import_torch(options.threads)
    cpu = options.cpu
    if options.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if cpu is None else cpu})
    attention = torch.nn.functional.scaled_dot_product_attention
    kinds = {"no": [False], "yes": [True], "both": [False, True]}[options.causal]
    torch.manual_seed(1)
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    with torch.inference_mode():
        for n in options.n:
            exact_in = [torch.randn(1, options.heads, n, options.width, dtype=torch.float64) for _ in range(3)]
            programs = [("product", None, None, lambda: a @ b)]
            errors = [None]
            for dtype in options.dtype:
                q, k, v = (x.to(getattr(torch, dtype)) for x in exact_in)
                for causal in kinds:
                    programs.append(("torch SDPA", dtype, causal,
                                     lambda q=q, k=k, v=v, causal=causal: attention(q, k, v, is_causal=causal)))
                    rows = min(n, 64)  # the last ones: they see every key, but for each other
                    mask = torch.ones(rows, n, dtype=torch.bool).tril(n - rows) if causal else None
                    exact = attention(q[:, :, -rows:].double(), k.double(), v.double(), attn_mask=mask)
                    computed = programs[-1][3]()[:, :, -rows:].double()
                    errors.append(float((computed - exact).norm() / exact.norm()))
                    if not errors[-1] <= (1e-4 if dtype == "float32" else 3e-2):
                        sys.exit(f"pytorch_sdpa.py: {dtype} at N = {n} is wrong: relative error {errors[-1]}")
            calls = [max(1, round(5e-3 / timed(call, 1))) for _, _, _, call in programs]
            samples = [[] for _ in programs]
            for _ in range(options.rounds):
                for i, (_, _, _, call) in enumerate(programs):
                    samples[i].append(timed(call, calls[i]))
            product = statistics.median(samples[0])
            for (name, dtype, causal, _), seconds, error in list(zip(programs, samples, errors))[1:]:
                flops = 4 * n * n * options.width * (0.5 if causal else 1)
                a_head = numbers([s / options.heads for s in seconds])
                print(json.dumps({
                    "program": name, "torch": torch.__version__, "dtype": dtype, "causal": causal, "tokens": n,
                    "heads": options.heads, "threads": options.threads, "rounds": options.rounds,
                    "seconds_a_head": a_head, "gflops": 1e-9 * flops / a_head["median"],
                    "product_gflops": 2e-9 * size ** 3 / product, "relative_error": error}), flush=True)


if __name__ == "__main__":
    main()
