#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""run_python.py PAGE.md runs the blocks of Python of a page as one program."""
import pathlib
import re
import sys

page = pathlib.Path(sys.argv[1])
blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
if not blocks:
    raise SystemExit(f"{page} has no block of Python")
exec(compile("\n".join(blocks), str(page), "exec"), {"__name__": "__main__"})
