# SPDX-License-Identifier: MIT
"""Safetensors files with their metadata, in 40 lines: https://github.com/huggingface/safetensors describes the form. The
package safetensors reads and writes the same files."""
import json
import struct

import torch

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
NAMES = {type: name for name, type in TYPES.items()}


def read(path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors by name, and the metadata."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(bytes(data[8 : 8 + size]))
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] not in TYPES:
            raise ValueError(f"{path}: tensor {name} is of the type {entry['dtype']}, expected one of {', '.join(TYPES)}")
        numbers = data[begin:end]  # a copy, which begins at an address that every type can have
        shape = entry["shape"]
        tensors[name] = torch.frombuffer(numbers, dtype=TYPES[entry["dtype"]]).reshape(shape) if numbers else torch.empty(
            shape, dtype=TYPES[entry["dtype"]])
    return tensors, metadata


def write(path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Wider types first, so that all data is aligned to its width."""
    header, data = {"__metadata__": metadata}, bytearray()
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        begin = len(data)
        data += tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
