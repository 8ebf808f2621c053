# SPDX-License-Identifier: MIT
"""Copies the parameters of a checkpoint, without what only training needs, with the standard library alone."""

import json
import struct
import sys

with open(sys.argv[1], "rb") as file:
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    data = file.read()

metadata = header.pop("__metadata__")
copy, parts, position = {"__metadata__": {"config": metadata["config"]}}, [], 0
for name, entry in header.items():
    if name.startswith("moments."):
        continue
    begin, end = entry["data_offsets"]
    copy[name] = {**entry, "data_offsets": [position, position + end - begin]}
    parts.append(data[begin:end])
    position += end - begin

text = json.dumps(copy).encode()
with open(sys.argv[2], "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
