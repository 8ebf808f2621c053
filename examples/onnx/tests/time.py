# SPDX-License-Identifier: MIT
"""time.py PROGRAM FOLDER [--width D] [--rounds R] [--tokens N ...]: the CPU time of a layer of 8 heads in one thread, in
C++ (PROGRAM is gma_onnx_time) and in ONNX Runtime with both graphs. Medians over rounds; a ratio is formed within a
round."""
import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1]))
import export_onnx


def median_ms(call):
    """The median over 7 measurements of at least 50 ms."""
    call()
    times = []
    for _ in range(7):
        start, calls = time.process_time(), 0
        while time.process_time() - start < 0.05:
            call()
            calls += 1
        times.append((time.process_time() - start) / calls * 1e3)
    return statistics.median(times)


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 512, 2048])
    options = parser.parse_args()
    path = Path(options.folder) / "time_layer.safetensors"
    subprocess.run([options.program, "write", path, str(options.width)], check=True)
    rows = {"com.microsoft": True, "opset 27": False}
    models = {name: export_onnx.export(path, kernels) for name, kernels in rows.items()}
    sessions = {name: session_of(model) for name, model in models.items()}
    random = np.random.default_rng(1)
    print(f"width {options.width}, {options.rounds} rounds, CPU ms of one thread (ratio to gma)")
    for n in options.tokens:
        x = random.standard_normal((1, n, options.width), dtype="f4")
        times = {name: [] for name in ("gma", *rows)}
        for _ in range(options.rounds):
            found = subprocess.run([options.program, "run", path, str(n)], check=True, capture_output=True, text=True)
            times["gma"].append(float(found.stdout))
            for name, session in sessions.items():
                inputs = {"x": x, **export_onnx.first_states(models[name])}
                times[name].append(median_ms(lambda: session.run(None, inputs)))
        ratios = {name: statistics.median(a / b for a, b in zip(values, times["gma"])) for name, values in times.items()}
        print(f"N {n}: " + ", ".join(f"{name} {statistics.median(values):.3g} (x{ratios[name]:.2g})"
                                     for name, values in times.items()))


if __name__ == "__main__":
    main()
