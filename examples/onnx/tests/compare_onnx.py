# SPDX-License-Identifier: MIT
"""compare_onnx.py FOLDER: exports the layers that `layer_files write FOLDER` wrote, runs them in ONNX Runtime, at once and
as a stream, and compares with C++."""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1]))
import export_onnx

TOLERANCE = 1e-6  # of the largest output


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session, model, x, lengths):
    """The outputs of a stream whose tokens come in pieces of these lengths."""
    states, outputs, first = export_onnx.first_states(model, len(x)), [], 0
    names = [name.replace("past_", "present_", 1) for name in states]
    assert [output.name for output in session.get_outputs()] == ["y", *names]
    for length in lengths:
        y, *present = session.run(None, {"x": x[:, first : first + length], **states})
        outputs.append(y)
        states = dict(zip(states, present))
        first += length
    assert first == x.shape[1]
    return np.concatenate(outputs, 1)


def compare(folder, onnxruntime_kernels):
    model = export_onnx.export(folder / "layer.safetensors", onnxruntime_kernels)
    tensors, _ = export_onnx.read_safetensors(folder / "pass.safetensors")
    x, y = tensors["x"].astype("f4"), tensors["y"]
    session = session_of(model)
    n = x.shape[1]
    cuts = {"whole": [n]}
    if any(value.name.startswith("past_") for value in model.graph.input):
        cuts["stream"] = [70, 1, 1, n - 72]
        cuts["steps"] = [1] * n
    errors = {name: np.abs(run(session, model, x, lengths) - y).max() / np.abs(y).max() for name, lengths in cuts.items()}
    print(f"{folder.name}, {'com.microsoft' if onnxruntime_kernels else 'opset 27'}, {len(model.graph.node)} nodes: "
          + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    return [f"{folder.name}: {name} differs by {e:.2g}" for name, e in errors.items() if not e <= TOLERANCE]


def refused(call, *words):
    try:
        call()
    except ValueError as error:
        missing = [word for word in words if word not in str(error)]
        return [f"'{error}' does not say {word}" for word in missing]
    return [f"{words}: was not refused"]


def refusals(folder):
    """What cannot be exported is named."""
    metadata = export_onnx.read_safetensors(folder / "default" / "layer.safetensors")[1]

    def changed(**members):
        return {**metadata, "config": json.dumps({**json.loads(metadata["config"]), **members})}

    check = export_onnx.checked_config
    return (refused(lambda: export_onnx.export(folder / "refused_elu" / "layer.safetensors"), "covariance", "elu")
            + refused(lambda: check(changed(new_part=3)), "option new_part")
            + refused(lambda: check(changed(normalization="column")), "option normalization", "column")
            + refused(lambda: check(changed(gate_activation="relu")), "option gate_activation", "relu")
            + refused(lambda: check({"format": "pt"}), "not one layer"))


def main(folder):
    folder = Path(folder)
    cases = sorted(path.parent for path in folder.glob("*/pass.safetensors") if "refused" not in path.parent.name)
    if not cases:
        raise FileNotFoundError(f"{folder} has no layers")
    faults = [fault for kernels in (False, True) for case in cases for fault in compare(case, kernels)]
    faults += refusals(folder)
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
