# SPDX-License-Identifier: MIT
"""prepare_text.py OUT.npz [PIECES]: the texts of examples/language_model, cut as train_many.py wants them.

Of each source the last tenth is held out; its first half is for validation, its second for the test. PIECES > 0 trains
a subword vocabulary of that size on the training parts (sentencepiece); otherwise a token is a byte.
"""
import subprocess, sys, tempfile
import numpy as np

SOURCES = {'kjv': 'bible -l 79 Gen1:1-Rev22:21', 'anarchism': 'zcat /usr/share/doc/anarchism/markdown/*.md.gz'}
LEAD = 4096   # tokens of earlier text kept before each held-out part, for contexts

out, pieces = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
parts = {}
for name, command in SOURCES.items():
    text = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    assert text, f'`{command}` printed nothing: install the Debian packages bible-kjv and anarchism'
    split = len(text) - len(text) // 10
    middle = split + len(text) // 20
    parts[name] = (text[:split], text[split:middle], text[middle:])

if pieces:
    import sentencepiece
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + '/text', 'wb') as f: f.write(b'\n'.join(p[0] for p in parts.values()))
        sentencepiece.SentencePieceTrainer.train(
            input=folder + '/text', model_prefix=folder + '/m', vocab_size=pieces, model_type='bpe', byte_fallback=True,
            character_coverage=1.0, normalization_rule_name='identity', remove_extra_whitespaces=False,
            add_dummy_prefix=False, split_digits=True, max_sentence_length=100000, num_threads=2,
            input_sentence_size=100000, shuffle_input_sentence=True, user_defined_symbols=['\n'])
        coder = sentencepiece.SentencePieceProcessor(model_file=folder + '/m.model')
    encode = lambda b: np.array(coder.encode(b.decode('utf-8', 'replace')), np.uint16)
else:
    encode = lambda b: np.frombuffer(b, np.uint8)

arrays, train = {}, []
for name, (a, b, c) in parts.items():
    A, B, C = encode(a), encode(b), encode(c)
    train.append(A)
    arrays[f'validation_{name}'], arrays[f'test_{name}'] = np.concatenate([A[-LEAD:], B]), np.concatenate([B[-LEAD:], C])
    print(name, 'bytes', len(a), len(b), len(c), 'tokens', len(A), len(B), len(C))
arrays['train'] = np.concatenate(train)
arrays['lead'], arrays['vocabulary'] = LEAD, pieces or 256
np.savez_compressed(out, **arrays)
