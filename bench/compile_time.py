#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How long does a file take to compile that includes one header of gma and nothing else?

    python3 bench/compile_time.py [--compilers g++ clang++] [--runs 3] [--headers gma/gma.hpp ...]

prints a table in Markdown: the median of the compiler's processor time (user, in seconds) for every public header,
beside that of <Eigen/Core>, and then that of two whole files, with gma::gma and with gma::compiled. Processor time
varies less than time on the clock where other programs run. docs/compile_time.md has a table."""
import argparse
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "docs/site"))
import header  # noqa: E402

INCLUDE = ROOT / "include"
FLAGS = ["-std=c++17", "-O1", f"-I{INCLUDE}", "-isystem", "/usr/include/eigen3"]

OPERATORS = """#include <gma/gma.hpp>
template gma::Matrix<float> gma::causal(const gma::Mixture<float>&, const gma::In<float>&, const gma::In<float>&,
    const gma::In<float>&, const gma::Options&, const gma::TokenInputsView<float>&, const gma::OptionalWorkspace<float>&);
gma::Gradients<gma::Mixture<float>> both(const gma::Mixture<float>& m, const gma::Matrix<float>& x) {
  gma::bidirectional_backward(m, x, x, x, x);
  return gma::causal_backward(m, x, x, x, x);
}
"""
LAYER = """#include <gma/gma.hpp>
gma::Matrix<float> train(gma::AttentionLayer<float>& layer, gma::AttentionLayer<float>& gradient,
                         const gma::Matrix<float>& x) {
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  gma::Matrix<float> y(x.rows(), x.cols()), dx(x.rows(), x.cols());
  gma::forward_into(y, layer, x, cache);
  gma::backward_into(dx, gradient, layer, y, cache, scratch);
  const auto ready = gma::compile(layer);
  gma::LayerState<float> state = gma::begin_stream(ready);
  return gma::step(ready, x.row(0), state);
}
"""


def public_headers() -> list[str]:
    names = {path.relative_to(INCLUDE).as_posix(): path for path in INCLUDE.rglob("*.hpp")}
    return sorted(name for name, path in names.items() if header.is_public(name, path.read_text(encoding="utf-8"))
                  and not name.startswith("gma/testing/"))  # those need GoogleTest


def seconds(command: list[str], source: str, runs: int) -> float:
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "unit.cpp"
        path.write_text(source)
        for _ in range(runs):
            process = subprocess.Popen(command + ["-c", str(path), "-o", str(path.with_suffix(".o"))])
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                raise SystemExit(f"compile_time.py: {shlex.join(command)} failed on\n{source}")
            times.append(usage.ru_utime)
    return statistics.median(times)


def mpi_flags() -> list[str]:
    result = subprocess.run(["pkg-config", "--cflags", "ompi-cxx"], capture_output=True, text=True, check=False)
    return shlex.split(result.stdout) if result.returncode == 0 else []


def version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def machine() -> str:
    found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compilers", nargs="+", default=["g++", "clang++"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--headers", nargs="+")
    arguments = parser.parse_args()
    headers = arguments.headers or public_headers()

    print(f"{machine()}; {'; '.join(version(c) for c in arguments.compilers)}; median of {arguments.runs} runs\n")
    print("| header | " + " | ".join(arguments.compilers) + " |\n|---|" + "---:|" * len(arguments.compilers))
    for name in ["Eigen/Core"] + headers:
        flags = FLAGS + (mpi_flags() if name.startswith("gma/mpi/") else [])
        times = [seconds([c] + flags, f"#include <{name}>\n", arguments.runs) for c in arguments.compilers]
        print(f"| `{name}` | " + " | ".join(f"{t:.2f}" for t in times) + " |", flush=True)

    print("\n| file | target | " + " | ".join(arguments.compilers) + " |\n|---|---|" + "---:|" * len(arguments.compilers))
    for what, source in [("a causal pass and the gradients of both", OPERATORS), ("a training step and a decoding step of a layer", LAYER)]:
        for target, flags in [("gma::gma", []), ("gma::compiled", ["-DGMA_COMPILED"])]:
            times = [seconds([c] + FLAGS + flags, source, arguments.runs) for c in arguments.compilers]
            print(f"| {what} | `{target}` | " + " | ".join(f"{t:.1f}" for t in times) + " |", flush=True)
    units = [ROOT / "cmake/gma_compiled.cpp", ROOT / "cmake/gma_compiled_layer.cpp"]
    times = [sum(seconds([c] + FLAGS, f'#include "{unit}"\n', 1) for unit in units) for c in arguments.compilers]
    print("| the library itself, once per project | | " + " | ".join(f"{t:.1f}" for t in times) + " |")


if __name__ == "__main__":
    main()
