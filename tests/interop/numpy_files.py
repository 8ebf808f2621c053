# SPDX-License-Identifier: MIT
"""numpy_files.py NPY_COPY: NumPy's files go through gma::io and come back as the same arrays; what gma::io does not
support it refuses. Exits with 77 where NumPy is not installed."""
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("NumPy is not installed")
    sys.exit(77)

TYPES = ["?"] + [order + code for order in "<>" for code in ("f8", "f4", "f2", "i8", "i4", "i2", "u8", "u4", "u2")]
TYPES += ["i1", "u1"]
SHAPES = [(), (0,), (5,), (1, 1), (3, 4), (0, 3), (2, 3, 4), (2, 1, 3, 2), (2, 0, 3)]
LARGE = (300, 7, 50)  # more than a reader's buffer
UNSUPPORTED = [np.zeros(2, "c8"), np.array(["a"]), np.array([b"a"]), np.array(["2020"], "M8[D]"),
               np.zeros(2, [("a", "f4")]), np.array([None], object)]


def copy(program, source, target):
    return subprocess.run([program, source, target], stderr=subprocess.PIPE, text=True)


def main(program):
    random = np.random.default_rng(1)
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "from.npy"), pathlib.Path(folder, "to.npy")
        for code in TYPES:
            for shape in SHAPES + [LARGE]:
                for order in "CF":
                    array = np.asarray(random.integers(0, 100, shape), code, order=order)
                    version = [(1, 0), (2, 0), (3, 0)][count % 3]
                    with open(source, "wb") as file:
                        np.lib.format.write_array(file, array, version)
                    result = copy(program, source, target)
                    assert result.returncode == 0, result.stderr
                    back = np.load(target, allow_pickle=False)
                    assert back.dtype == array.dtype.newbyteorder("<"), (code, back.dtype)
                    assert back.shape == array.shape and np.array_equal(back, array), (code, shape, order)
                    count += 1
        for array in UNSUPPORTED:
            np.save(source, array, allow_pickle=True)
            result = copy(program, source, target)
            assert result.returncode == 1 and "gma::io::read_npy" in result.stderr, (array.dtype, result)
    print(f"{count} arrays came back, {len(UNSUPPORTED)} were refused")


main(sys.argv[1])
