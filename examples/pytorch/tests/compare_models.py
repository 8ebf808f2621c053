# SPDX-License-Identifier: MIT
"""compare_models.py FOLDER: trains from the starts that `model_files write FOLDER` wrote, and compares every step with the
training in C++. The trained models are then for `model_files check FOLDER`."""
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import train
from language_model import load_model


def check(what: str, found: float, expected: float, tolerance: float) -> None:
    if not abs(found - expected) <= tolerance:
        raise ValueError(f"{what} is {found}, in C++ {expected}, expected a difference of at most {tolerance}")


def compare(folder: Path, text: Path) -> None:
    options = ["--text", text, "--start", folder / "start.safetensors", "--out", folder / "python", "--steps", 25,
               "--context", 96, "--warmup-steps", 10, "--learning-rates", 0.01, "--seeds", 1, 2, "--device", "cpu"]
    expected = json.loads((folder / "runs.json").read_text())
    train.windows = lambda text, config, step, seed: torch.tensor(expected[seed - 1]["windows"][step])
    train.main([str(option) for option in options])
    found = json.loads((folder / "python" / "results.json").read_text())["runs"]
    for i, (python, cpp) in enumerate(zip(found, expected)):
        differences = [abs(a - b) for a, b in zip(python["losses"], cpp["losses"])]
        print(f"{folder.name}, seed {python['seed']}: losses differ by {differences[0]:.1e} in the first step and by at most "
              f"{max(differences):.1e}, held-out bits by {abs(python['bits_per_byte'] - cpp['bits_per_byte']):.1e}")
        for step, (a, b) in enumerate(zip(python["losses"], cpp["losses"], strict=True)):
            check(f"the loss of step {step}", a, b, 1e-5)
        check("held-out bits after training", python["bits_per_byte"], cpp["bits_per_byte"], 1e-5)

        model = load_model(folder / f"trained_{i + 1}.safetensors")
        ensemble = train.Ensemble([model], [0.0], train.TrainConfig(), "cpu")
        bits = train.evaluate(ensemble, train.Text.load([text], 96), 96)[0]
        check("held-out bits of the model trained in C++", bits, cpp["bits_per_byte"], 1e-5)


def main(folder: str) -> None:
    folders = sorted(path.parent for path in Path(folder).glob("*/runs.json"))
    if not folders:
        raise FileNotFoundError(f"{folder} has no models")
    for each in folders:
        compare(each, Path(folder) / "text.txt")


if __name__ == "__main__":
    main(*sys.argv[1:])
