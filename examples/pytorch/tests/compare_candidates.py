# SPDX-License-Identifier: MIT
"""compare_candidates.py PROGRAM FOLDER: the mixers of the search that the C++ program `language_model` has, with random
parameters, evaluated by both. They must agree; otherwise results of the search say nothing about the program's mixers."""
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
import old_pytorch  # noqa: F401
from candidates import KINDS, Model, layout
from export import MIXERS, export, window_loss

CONTEXT = 64
TOLERANCE = 1e-5  # of the mean loss, in nats; both compute in float


def main(program: str, folder: str) -> None:
    torch.set_grad_enabled(False)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    gen = torch.Generator().manual_seed(1)
    text = torch.randint(97, 123, (6000,), generator=gen)
    (path / "text.txt").write_bytes(bytes(text.tolist()))
    split = 6000 - 600
    for kind in MIXERS:
        mixer = dataclasses.replace(KINDS[kind], state=16, head=32, layers=2, local=min(KINDS[kind].local, 16))
        mixer = dataclasses.replace(mixer, components=(4, 6)) if 16 in mixer.components else mixer
        model = Model(mixer, width=48, heads=2, layers=2, mlp=40, low=torch.float32)
        p = {name: start(shape, gen)[None] for name, (shape, start, _) in layout(model).items()}
        p = {name: x + 0.2 * torch.randn(x.shape, generator=gen) for name, x in p.items()}
        file = path / f"{kind}.safetensors"
        export(kind, {name: x[0] for name, x in p.items()}, file, local=mixer.local)
        subprocess.run([program, "evaluate", file, "--text", path / "text.txt", "--context", str(CONTEXT), "--threads", "1",
                        "--json", path / "figures.json"], check=True, stdout=subprocess.DEVNULL)
        found = json.loads((path / "figures.json").read_text())
        for part, begin, end in (("validation", split, split + 300), ("test", split + 300, 6000)):
            expected, cpp = window_loss(p, model, text, begin, end, CONTEXT), found[f"{part}_loss"]
            print(f"{kind}, {part}: {expected:.6f}, C++ differs by {abs(cpp - expected):.1e}")
            if not (abs(cpp - expected) <= TOLERANCE and math.isfinite(expected)):
                raise ValueError(f"{kind}: the {part} loss is {cpp} in C++, expected {expected}")


if __name__ == "__main__":
    main(*sys.argv[1:])
