# SPDX-License-Identifier: MIT
"""bench.py [tokens ...]: gma beside plain PyTorch and beside softmax attention, on one thread.

Times are CPU times of this process, so other programs on the machine disturb them little. All programs of a table take
turns in every round; a ratio is that of two times of one round, and what is printed are medians. Outputs of gma and of
plain PyTorch are compared before anything is timed."""
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import gma_torch

sys.path.insert(0, str(Path(__file__).parents[1] / "pytorch"))
import gma_layer

HEADS, WIDTH, ROUNDS = 8, 64, 9


def table(title, programs, n):
    """A line per program: ms, and how many times the first one's time."""
    times = {name: [] for name in programs}
    for run in range(ROUNDS + 1):
        for name, program in programs.items():
            begin = time.process_time()
            program()
            if run > 0:  # the first one warms up
                times[name].append(1e3 * (time.process_time() - begin))
    own = next(iter(times.values()))
    for name, all_of_them in times.items():
        ratio = statistics.median(t / first for t, first in zip(all_of_them, own))
        print(f"| {title} | {n:,} | {name} | {statistics.median(all_of_them):.1f} | x{ratio:.1f} |", flush=True)


def with_backward(function, tensors):
    def program():
        for t in tensors:
            t.grad = None
        function().sum().backward()

    return program


def without_gradients(function):
    def program():
        with torch.no_grad():
            function()

    return program


def operator(n):
    attention = gma_torch.Attention(HEADS, WIDTH)
    plain = gma_layer.AttentionLayer(gma_layer.LayerConfig(width=HEADS * WIDTH, heads=HEADS))
    for h, mixture in enumerate(plain.mixtures):
        for m, factor in enumerate(mixture["factors"]):
            names = ("weight_logits", "means", "log_scales", "log_temperature")
            for name, p in zip(names, attention.mixtures[4 * m : 4 * m + 4]):
                getattr(factor, name).data.copy_(p.data[h])
    q, k, v = (torch.randn(1, HEADS, n, WIDTH, requires_grad=True) for _ in range(3))

    def chunked():
        r_q, r_k = (plain.responsibilities(x[:, :, None]) for x in (q, k))
        return gma_layer.causal_attention(r_q, r_k, v[:, :, None], v.new_zeros(1, HEADS, 1, n), "slot")[:, :, 0]

    functions = {"gma": lambda: attention(q, k, v), "plain PyTorch": chunked}
    assert (functions["gma"]() - chunked()).abs().max() < 1e-4
    if hasattr(F, "scaled_dot_product_attention"):
        functions["softmax attention"] = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    table("operator, forward", {name: without_gradients(f) for name, f in functions.items()}, n)
    tensors = [q, k, v, *attention.parameters(), *plain.parameters()]
    table("operator, forward and backward", {name: with_backward(f, tensors) for name, f in functions.items()}, n)


class SoftmaxLayer(nn.Module):
    """Projections around softmax attention, and nothing else."""

    def __init__(self, width):
        super().__init__()
        self.fused, self.output = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (z.unflatten(-1, (HEADS, -1)).transpose(1, 2) for z in self.fused(x).chunk(3, -1))
        return self.output(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def layer(n):
    width, batch = HEADS * WIDTH, 2
    x, target = torch.randn(batch, n, width), torch.randn(batch, n, width)
    models = {"gma": gma_torch.AttentionLayer(width, HEADS),
              "plain PyTorch": gma_layer.AttentionLayer(gma_layer.LayerConfig(width=width, heads=HEADS))}
    models["plain PyTorch"].load_state_dict(models["gma"].state_dict())
    with torch.no_grad():
        assert (models["gma"](x) - models["plain PyTorch"](x)).abs().max() < 1e-4
    if hasattr(F, "scaled_dot_product_attention"):
        models["softmax attention"] = SoftmaxLayer(width)

    def step(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def program():
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()

        return program

    table("layer, forward", {name: without_gradients(lambda m=m: m(x)) for name, m in models.items()}, n)
    table("layer, training step", {name: step(m) for name, m in models.items()}, n)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with open("/proc/loadavg") as load:
        print(f"PyTorch {torch.__version__}, Python {platform.python_version()}, load {load.read().split()[0]}\n")
    print("| what | tokens | program | ms | to gma |\n|---|---:|---|---:|---:|")
    for n in [int(a) for a in sys.argv[1:]] or [512, 2048, 8192]:
        operator(n)
        layer(n)
