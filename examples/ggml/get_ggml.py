# SPDX-License-Identifier: MIT
"""get_ggml.py FOLDER: ggml's headers and CPU libraries from PyPI, in FOLDER/include and FOLDER/lib, without compiling
anything. They are parts of the package pywhispercpp: the libraries of its wheel, the headers of its sources."""
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = "pywhispercpp==1.5.1"


def main(folder):
    folder = Path(folder)
    for kind in ("--only-binary", "--no-binary"):
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input", "--retries",
                        "1", "--timeout", "15", "--no-deps", kind, "pywhispercpp", "-d", folder, PACKAGE], check=True)
    for name in ("include", "lib"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive:
            path = Path(member.name)
            if path.parts[1:4] == ("whisper.cpp", "ggml", "include") and path.suffix == ".h":
                (folder / "include" / path.name).write_bytes(archive.extractfile(member).read())
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        for name in archive.namelist():
            path = Path(name)
            if path.parent.name == "pywhispercpp.libs":
                (folder / "lib" / path.name).write_bytes(archive.read(name))
                for library in ("ggml-base", "ggml-cpu"):  # their names end with a hash
                    rest = path.name.replace(f"lib{library}-", "", 1)
                    if path.name.startswith(f"lib{library}-") and "-" not in rest:
                        (folder / "lib" / f"lib{library}.so").symlink_to(path.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
