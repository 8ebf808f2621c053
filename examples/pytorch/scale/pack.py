# SPDX-License-Identifier: MIT
"""Models that train_large.py --save wrote: in pieces that a machine can send back, and as checkpoints of the C++ programs.

    pack.py split MODEL.pt FOLDER                                FOLDER/MODEL.pt.0, .1, ... of at most 15 MiB
    pack.py join FOLDER/MODEL.pt                                 back, from its pieces beside it
    pack.py checkpoint KIND MODEL.pt OUT.safetensors [--vocabulary DATA/prose.model]
    pack.py evaluate KIND MODEL.pt --vocabulary DATA/prose.model --text FILE [--context 2048]    the test loss that C++ must find

Matrices are in bfloat16, all else in float32; `test_packed` in the records is the test loss of such a model. The checkpoint has
the vocabulary, so that examples/models/language_model evaluates it on text (evaluate, lengths), and inspect_routing looks into it.
A window that a mixer has is in KINDS of candidates.py."""
import argparse, dataclasses, sys
from pathlib import Path
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'search'))
import old_pytorch  # noqa: F401
import prepare
from candidates import KINDS, Model
from export import export, window_loss

PIECE = 15 * 2 ** 20


def split(path, folder):
    data = Path(path).read_bytes()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(0, len(data), PIECE): Path(folder, f'{Path(path).name}.{i // PIECE}').write_bytes(data[i:i + PIECE])


def join(path):
    pieces = sorted(Path(path).parent.glob(Path(path).name + '.*'), key=lambda p: int(p.suffix[1:]))
    Path(path).write_bytes(b''.join(p.read_bytes() for p in pieces))


def model_of(kind, p):
    """The model of these parameters, in float32."""
    V, D = p['embedding'].shape
    layers, mixer = 1 + max(int(n.split('.')[0]) for n in p if n[0].isdigit()), KINDS[kind]
    if mixer.memory == 'mamba2':
        heads, inner = len(p['0.skip']), 2 * D
        mixer = dataclasses.replace(mixer, head=inner // heads, state=(p['0.in'].shape[1] - 2 * inner - heads) // 2, layers=layers)
    else:
        heads = p['0.small'].shape[1] if kind == 'deltanet' else len(next(p[n] for n in ('0.query_scale', '0.forget', '0.mean0') if n in p))
        if '0.mean0' in p: mixer = dataclasses.replace(mixer, components=tuple(p[f'0.mean{f}'].shape[1] for f in range(2)))
        mixer = dataclasses.replace(mixer, expand=p['0.in'].shape[1] // D - 2)
    return Model(mixer, vocabulary=V, width=D, heads=heads, layers=layers, mlp=p['0.down'].shape[0] if '0.down' in p else 0, low=torch.float32)


def evaluate(kind, parameters, vocabulary, text, context):
    """(tokens, nats a token) of the last twentieth of a text."""
    import sentencepiece
    coder, data = sentencepiece.SentencePieceProcessor(model_file=vocabulary), Path(text).read_bytes()
    split = len(data) - len(data) // 10
    middle = split + (len(data) - split) // 2
    while middle < len(data) and data[middle] & 0xC0 == 0x80: middle += 1
    before = prepare.encode(coder, data[:split].decode('utf-8', 'ignore')[-20 * context:])
    parts = [prepare.encode(coder, data[a:b].decode()) for a, b in ((split, middle), (middle, len(data)))]
    tokens = torch.from_numpy(np.concatenate([before] + parts).astype(np.int64))
    with torch.no_grad():
        return len(parts[1]), window_loss({n: x[None] for n, x in parameters.items()}, model_of(kind, parameters), tokens, len(tokens) - len(parts[1]), len(tokens), context)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = a.add_subparsers(dest='command', required=True)
    p = commands.add_parser('split'); p.add_argument('model'); p.add_argument('folder')
    p = commands.add_parser('join'); p.add_argument('model')
    p = commands.add_parser('checkpoint'); p.add_argument('kind'); p.add_argument('model'); p.add_argument('out'); p.add_argument('--vocabulary')
    p = commands.add_parser('evaluate'); p.add_argument('kind'); p.add_argument('model'); p.add_argument('--vocabulary', required=True)
    p.add_argument('--text', required=True); p.add_argument('--context', type=int, default=2048)
    o = a.parse_args()
    if o.command == 'split': split(o.model, o.folder)
    elif o.command == 'join': join(o.model)
    else:
        parameters = {n: x.float() for n, x in torch.load(o.model).items()}
        if o.command == 'evaluate': print('%d tokens, %.6f nats' % evaluate(o.kind, parameters, o.vocabulary, o.text, o.context))
        else: export(o.kind, parameters, o.out, Path(o.vocabulary).read_bytes() if o.vocabulary else b'')


if __name__ == '__main__': main()
