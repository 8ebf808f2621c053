# SPDX-License-Identifier: MIT
"""Models that train_large.py --save wrote: in pieces that a machine can send back, and as checkpoints of the C++ programs.

    pack.py split MODEL.pt FOLDER                                FOLDER/MODEL.pt.0, .1, ... of at most 15 MiB
    pack.py join FOLDER/MODEL.pt                                 back, from its pieces beside it
    pack.py checkpoint KIND MODEL.pt OUT.safetensors [--vocabulary DATA/prose.model]

Matrices are in bfloat16, all else in float32; `test_packed` in the records is the test loss of such a model. The checkpoint has
the vocabulary, so that examples/models/language_model evaluates it on text (evaluate, lengths), and inspect_routing looks into it.
A window that a mixer has is in KINDS of candidates.py."""
import argparse, sys
from pathlib import Path
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'search'))
from export import export

PIECE = 15 * 2 ** 20


def split(path, folder):
    data = Path(path).read_bytes()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(0, len(data), PIECE): Path(folder, f'{Path(path).name}.{i // PIECE}').write_bytes(data[i:i + PIECE])


def join(path):
    pieces = sorted(Path(path).parent.glob(Path(path).name + '.*'), key=lambda p: int(p.suffix[1:]))
    Path(path).write_bytes(b''.join(p.read_bytes() for p in pieces))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = a.add_subparsers(dest='command', required=True)
    p = commands.add_parser('split'); p.add_argument('model'); p.add_argument('folder')
    p = commands.add_parser('join'); p.add_argument('model')
    p = commands.add_parser('checkpoint'); p.add_argument('kind'); p.add_argument('model'); p.add_argument('out'); p.add_argument('--vocabulary')
    o = a.parse_args()
    if o.command == 'split': split(o.model, o.folder)
    elif o.command == 'join': join(o.model)
    else:
        parameters = {n: x.float() for n, x in torch.load(o.model).items()}
        export(o.kind, parameters, o.out, Path(o.vocabulary).read_bytes() if o.vocabulary else b'')


if __name__ == '__main__': main()
