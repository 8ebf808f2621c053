# SPDX-License-Identifier: MIT
"""compare_layers.py FOLDER: runs the layers that `layer_files write FOLDER` wrote, compares outputs and all gradients with
those of C++, and writes a layer of its own with its outputs beside each, for `layer_files check FOLDER`."""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import gma_layer
import safetensors_file


def compare(folder: Path) -> float:
    """The largest relative error of a tensor, by norm."""
    layer = gma_layer.load_layer(folder / "layer.safetensors")
    expected, _ = safetensors_file.read(folder / "pass.safetensors")
    inputs = {name: expected[name].requires_grad_() for name in ("x", "context") if name in expected}
    y = layer(*inputs.values())
    y.backward(expected["d_y"])
    found = {"y": y.detach(), **{"d_" + name: x.grad for name, x in inputs.items()},
             **{"gradient." + name: parameter.grad for name, parameter in layer.named_parameters()}}
    if found.keys() | {"d_y"} | inputs.keys() != expected.keys():
        raise KeyError(f"{folder}: other tensors than {list(expected)}")
    errors = {name: ((values - expected[name]).norm() / expected[name].norm()).item() for name, values in found.items()}
    if y.dtype == torch.float32:  # sums that cancel: relative to the gradient of all parameters
        everything = torch.cat([parameter.grad.flatten() for parameter in layer.parameters()]).norm()
        errors.update({name: ((values - expected[name]).norm() / everything).item()
                       for name, values in found.items() if name.startswith("gradient.")})
    worst = max(errors, key=errors.get)
    print(f"{folder.name}: outputs {errors['y']:.1e}, at most {errors[worst]:.1e} ({worst})")
    for name, error in errors.items():
        tolerance = 1e-12 if y.dtype == torch.float64 else 5e-6 if name.startswith("gradient.") else 1e-6
        if not error <= tolerance:
            raise ValueError(f"{folder}: {name} differs from C++ by {error:.2g}, expected at most {tolerance}")

    own = gma_layer.AttentionLayer(layer.config, layer.covariance).to(y.dtype)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        y = own(*(x.detach() for x in inputs.values()))
    gma_layer.save_layer(folder / "python_layer.safetensors", own)
    safetensors_file.write(folder / "python_y.safetensors", {"y": y}, {})


def main(folder: str) -> None:
    torch.manual_seed(1)
    folders = sorted(path.parent for path in Path(folder).glob("*/pass.safetensors"))
    if not folders:
        raise FileNotFoundError(f"{folder} has no layers")
    for each in folders:
        compare(each)


if __name__ == "__main__":
    main(*sys.argv[1:])
