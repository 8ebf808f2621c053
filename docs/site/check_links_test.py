#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whether check_links.py finds what is broken, and nothing else."""
import pathlib
import tempfile

import check_links

with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder).resolve()
    (root / "a.md").write_text("# A `b` c\n\n[ok](b.md#two-words) [self](#a-b-c) [out](https://example.org/)\n"
                               "[no file](c.md) [no heading](b.md#none)\n\n```\n[code](d.md)\n```\n")
    (root / "b.md").write_text("# One\n\n## Two words\n")
    outside: set[str] = set()
    faults = check_links.markdown_faults(root, outside)
    assert faults == ["a.md: c.md: there is no such file", "a.md: b.md#none: there is no such heading"], faults
    assert outside == {"https://example.org/"}, outside
    (root / "index.html").write_text('<a href="p.html#x">1</a><a href="p.html#y">2</a><img src="no.svg"/>')
    (root / "p.html").write_text('<p id="x"></p>')
    faults = check_links.html_faults(root, outside)
    assert faults == ["index.html: no.svg: there is no such file", "index.html: p.html#y: there is no such anchor"], faults
