# SPDX-License-Identifier: MIT
"""export.py KIND PARAMETERS.npz OUT.safetensors: a model that train_many.py --save wrote, as a checkpoint of the C++ program
`language_model`, which evaluates, streams and times it. For the kinds that the C++ program has: MIXERS below.
The library divides by masses down to 2^-40, as `gate_exact` does; `gma`, `gate` and `gate_16` stop at 2^-20, so that a model
trained with them is another one in C++ (RESULTS.md, In C++)."""
import json, sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import safetensors_file
from candidates import KINDS, forward, logits
from language_model import FORMAT

MIXERS = {'gma': 'gma', 'gate': 'gma', 'gate_exact': 'gma', 'gate_16': 'gma', 'gate_1': 'gma', 'gate_frozen': 'gma', 'gate_keep': 'gma', 'gate_window': 'gma',
          'slot_exact': 'gma', 'slot_window': 'gma', 'gdn_published': 'delta', 'deltanet': 'delta', 'mamba2': 'mamba', 'mamba2_plain': 'mamba',
          'mamba2_published': 'mamba', 'softmax': 'sdpa'}


def config_of(kind, p, local):
    """The members of the C++ ModelConfig that the shapes of the parameters say, and the window."""
    V, D = p['embedding'].shape
    layers = 1 + max(int(name.split('.')[0]) for name in p if name[0].isdigit())
    config = dict(mixer=MIXERS[kind], vocabulary=V, width=D, layers=layers, convolution=4,
                  mlp_width=p['0.down'].shape[0] if '0.down' in p else 0)
    if kind.startswith('mamba2'):
        h, inner = len(p['0.skip']), 2 * D
        config |= dict(mamba_head=inner // h, state=(p['0.in'].shape[1] - 2 * inner - h) // 2, heads=h)
    elif kind == 'softmax': config |= dict(heads=len(p['0.query_scale']), has_unit_queries=True)
    elif kind == 'deltanet': config |= dict(heads=p['0.small'].shape[1])
    else: config |= dict(heads=len(p['0.forget'] if '0.forget' in p else p['0.mean0']), has_forgetting='0.forget' in p)
    if config['mixer'] == 'gma':
        config |= dict(components=[p[f'0.mean{f}'].shape[1] for f in range(2)], has_output_norm=kind != 'gma', has_output_gate=kind != 'gma')
        config |= dict(gma_window=local, slot_forgetting=p['0.slot_rates'].shape[1] if '0.slot_rates' in p else 0)
    return config


def mixer_of(kind, p):
    """The parameters of one layer's mixer, by their names in C++. A weight there is [outputs, inputs]; the filters of the
    mixers that are not the library's layer are [taps, channels], the present token first."""
    filter_ = {'convolution.filter': p['taps'].flip(-1).T} if 'taps' in p else {}
    if kind.startswith('mamba2'):
        return filter_ | {'convolution.bias': p['taps_bias'], 'in.weight': p['in'].T, 'log_decay': p['rate'], 'norm.gain': p['gain'],
                          'out.weight': p['out'].T, 'skip': p['skip'], 'step_bias': p['dt']}
    if kind == 'softmax': return filter_ | {'qkv.weight': p['in'].T, 'out.weight': p['out'].T, 'scale': p['query_scale']}
    H = len(p['forget'] if 'forget' in p else p['mean0']) if kind != 'deltanet' else 0
    if kind in ('gdn_published', 'deltanet'):
        if kind == 'deltanet':   # a forgetting of softplus(-100), which is nothing
            H = p['small'].shape[1]
            p = p | {'small': torch.cat([torch.zeros_like(p['small']), p['small']], 1), 'forget': torch.full((H,), -100.0), 'forget_scale': torch.zeros(H)}
        forget, strength = p['small'][:, :H], p['small'][:, H:]
        return filter_ | {'in.weight': torch.cat([p['in'], p['gate'], strength, forget], 1).T, 'forget_bias': p['forget'],
                          'log_rate': p['forget_scale'], 'norm.gain': p['gain'], 'out.weight': p['out'].T}
    out = {'output.weight': p['out'].T}
    if 'forget' in p: out |= {'forget.weight': p['small'][:, :H].T, 'forget.bias': p['forget'], 'forget.rate': p['forget_scale']}
    for name, w, taps in zip(('query', 'key', 'value'), p['in'].chunk(3, 1), p['taps'].chunk(3, 0)):
        out |= {f'{name}.weight': w.T, f'{name}.filter': taps}
    if 'slot_rates' in p: out |= {'slot_forget.weight': p['small'][:, H:].T, 'slot_forget.rate': p['slot_rates'].flatten(0, 1)}
    if 'near' in p: out |= {'window.weight': p['near'].T, 'window.bias': p['near_bias']}
    if kind != 'gma': out |= {'gate.weight': p['gate'].T, 'norm.gain': p['gain']}
    for h in range(H):
        for f in range(2):
            for name, source in (('means', 'mean'), ('log_scales', 'scale'), ('weight_logits', 'logit'), ('log_temperature', 'tau')):
                out[f'mixtures.{h}.factors.{f}.{name}'] = p[f'{source}{f}'][h]
    return out


def export(kind, parameters, path, vocabulary=b'', local=None):
    """parameters: of one model, name -> tensor. vocabulary: the file of SentencePiece, where tokens are pieces. local: the
    window, where it is not that of KINDS."""
    config = config_of(kind, parameters, KINDS[kind].local if local is None else local)
    out = {'embedding.weight': parameters['embedding'], 'norm_output.gain': parameters['norm']}
    for i in range(config['layers']):
        p = {name[len(f'{i}.'):]: value for name, value in parameters.items() if name.startswith(f'{i}.')}
        block = {f'mixer.{name}': value for name, value in mixer_of(kind, p).items()} | {'norm_mixer.gain': p['norm1']}
        if 'norm2' in p: block |= {'norm_mlp.gain': p['norm2'], 'mlp.expand.weight': p['up'].T, 'mlp.down.weight': p['down'].T}
        out |= {f'blocks.{i}.{name}': value for name, value in block.items()}
    metadata = {'format': 'pt', 'gma_format': FORMAT, 'config': json.dumps(config)}
    safetensors_file.write(path, out, metadata | ({'vocabulary': vocabulary.hex()} if vocabulary else {}))


def window_loss(p, model, tokens, begin, end, context):
    """Mean nats of tokens [begin, end), in the windows of `language_model evaluate`. p: name -> [1, ...]."""
    total, lead = 0.0, context // 4
    for first in range(begin, end, context - lead):
        last = min(first + context - lead, end)
        seen = tokens[max(first - 1 - lead, 0):last]
        x = torch.zeros(1, 1, context, dtype=torch.long)   # what fills it up comes later, and nobody sees it
        x[0, 0, :len(seen) - 1] = seen[:-1]
        y = logits(forward(p, x, model), p, model)[0, 0, :len(seen) - 1].log_softmax(-1)
        total -= y.gather(-1, seen[1:, None])[-(last - first):].double().sum().item()
    return total / (end - begin)


if __name__ == '__main__':
    kind, source, path = sys.argv[1:]
    export(kind, {name: torch.from_numpy(value) for name, value in np.load(source).items()}, path)
