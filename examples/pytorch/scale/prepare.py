# SPDX-License-Identifier: MIT
"""prepare.py {prose,code} OUT [--downloads FOLDER]: a corpus from Debian packages, as pieces in few bytes.

    prose   An Anarchist FAQ, the King James Bible, six novels of Jane Austen, the dictionary GCIDE, WordNet's glosses, the
            documentation of Linux
    code    C files of Linux, whole directories of them

Packages are fetched by `apt-get download` and unpacked into a folder; nothing is installed. Of each source of prose the last tenth
is held out; its first half is for validation, its second half for the test. Of code the directories are held out whole, one in twenty
for each. A vocabulary of --pieces (SentencePiece, byte pair encoding, options as in examples/models/language_model) is trained on the
training parts alone. OUT gets

    NAME.json, NAME.tokens.xz    what corpus.py reads: all parts one after another, 16 bits a token
    NAME.model                   the vocabulary
    text/NAME/PART.txt           the held-out texts, for the C++ programs
"""
import argparse, glob, gzip, hashlib, json, lzma, os, re, struct, subprocess, tarfile, tempfile, time, zlib
import numpy as np

PACKAGES = {'prose': ['anarchism', 'bible-kjv', 'bible-kjv-text', 'r-cran-janeaustenr', 'dict-gcide', 'wordnet-base', 'linux-doc-6.1'],
            'code': ['linux-source-6.1']}
LEAD = 16384   # tokens of earlier text before each held-out part, for contexts


def fetch(packages, folder):
    """Unpacks the packages into `folder`/x."""
    os.makedirs(folder, exist_ok=True)
    for package in packages:
        if not glob.glob(f'{folder}/{package}_*.deb'): subprocess.run(['apt-get', 'download', '-q', package], cwd=folder, check=True)
        files = glob.glob(f'{folder}/{package}_*.deb')
        assert len(files) == 1, f'{folder} has {len(files)} packages of the name {package}, expected one'
        if not os.path.exists(f'{folder}/{package}.unpacked'):
            subprocess.run(['dpkg', '-x', files[0], f'{folder}/x'], check=True)
            open(f'{folder}/{package}.unpacked', 'w').close()
    return f'{folder}/x'


def read(path):
    data = (gzip.open if path.endswith(('.gz', '.dz')) else open)(path, 'rb').read()
    return data.decode('utf-8', 'replace')


def files(root, pattern): return sorted(glob.glob(f'{root}/{pattern}', recursive=True))


def austen(path):
    """Lines of an R database: pieces of 4 bytes of length and a zlib stream; strings are type 9 and 4 bytes of length."""
    data, lines, at = open(path, 'rb').read(), [], 0
    while at < len(data):
        stream = zlib.decompressobj()
        d = stream.decompress(data[at + 4:])
        at, p = len(data) - len(stream.unused_data), 0
        while p + 8 <= len(d):
            flags, n = struct.unpack_from('>Ii', d, p)
            if flags & 0xff == 9 and flags >> 8 in (0, 0x400, 0x200, 0x80) and 0 <= n < 5000:
                lines.append(d[p + 8:p + 8 + n].decode('utf-8', 'replace'))
                p += 8 + n
            else: p += 1
    return '\n'.join(lines)


def gloss(line):
    """`00001740 03 n 01 entity 0 ... | that which is ...` -> `entity: that which is ...`"""
    fields, _, text = line.partition(' | ')
    fields = fields.split()
    words = fields[4:4 + 2 * int(fields[3], 16):2]
    return ', '.join(w.replace('_', ' ') for w in words) + ': ' + text.strip()


def prose(root):
    """name -> text"""
    yield 'kjv', subprocess.run([f'{root}/usr/bin/bible', '-p', f'{root}/usr/lib', '-l', '79', 'Gen1:1-Rev22:21'], check=True,
                                stdout=subprocess.PIPE).stdout.decode('utf-8', 'replace')
    yield 'anarchism', ''.join(read(f) for f in files(root, 'usr/share/doc/anarchism/markdown/*.md.gz'))
    yield 'austen', austen(f'{root}/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb')
    yield 'gcide', re.sub(r'\n\s*\n+', '\n\n', read(f'{root}/usr/share/dictd/gcide.dict.dz'))
    yield 'wordnet', '\n'.join(gloss(l) for k in ('noun', 'verb', 'adj', 'adv') for l in read(f'{root}/usr/share/wordnet/data.{k}').splitlines()
                               if l[:1].isdigit())
    docs = [f for f in files(root, 'usr/share/doc/linux-doc-6.1/**/*.rst.gz') + files(root, 'usr/share/doc/linux-doc-6.1/**/*.txt.gz')
            if '/translations/' not in f]
    docs = docs or [f for f in files(root, 'usr/share/doc/linux-doc-6.1/**/*.rst*') if '/translations/' not in f]
    yield 'linux-doc', '\n'.join(read(f) for f in sorted(docs))


def clean(text):
    """What a vocabulary cannot hold: its own sign for a space, and zeros."""
    return text.replace('\u2581', '_').replace('\0', '').replace('\r', '')


def cut_prose(root):
    parts = {}
    for name, text in prose(root):
        text = clean(text)
        assert len(text) > 100000, f'{name} has {len(text)} characters: a package has another content than expected'
        split, middle = len(text) - len(text) // 10, len(text) - len(text) // 20
        parts[name] = {'train': text[:split], 'validation': text[split:middle], 'test': text[middle:]}
    return parts


def fraction(name): return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') / 2 ** 64


def cut_code(root, megabytes):
    """Two sources, drivers and all else. A directory's hash says what it is for, and which come first where not all fit."""
    archive = files(root, 'usr/src/linux-source-6.1.tar.xz')[0]
    folders = {}
    with tarfile.open(archive, 'r|xz') as tar:
        for entry in tar:
            if not (entry.isfile() and entry.name.endswith(('.c', '.h')) and 0 < entry.size <= 200000): continue
            path = entry.name.split('/', 1)[1]
            data = tar.extractfile(entry).read()
            folders.setdefault(os.path.dirname(path), []).append((path, clean(data.decode('utf-8', 'replace'))))
    parts, sizes = {s: {'train': [], 'validation': [], 'test': []} for s in ('drivers', 'core')}, {}
    for folder in sorted(folders, key=lambda f: fraction('order ' + f)):
        u = fraction(folder)
        part = 'validation' if u < 0.05 else 'test' if u < 0.1 else 'train'
        source = 'drivers' if folder.startswith(('drivers', 'sound')) else 'core'
        text = '\n'.join(t for _, t in sorted(folders[folder]))
        limit = megabytes * (0.5 if part == 'train' else 0.02) * 1e6
        if sizes.get((source, part), 0) + len(text) > limit: continue
        sizes[source, part] = sizes.get((source, part), 0) + len(text)
        parts[source][part].append(text)
    return {s: {k: '\n'.join(v) for k, v in p.items()} for s, p in parts.items()}


def train_vocabulary(texts, pieces, symbols, megabytes=24):
    """On lines spread over the texts. A line with a tab would be left out by SentencePiece, so that tabs end lines here.
    `symbols` are pieces in any case."""
    import io
    import sentencepiece
    lines = [line for text in texts for line in text.replace('\t', '\n').split('\n') if line]
    every = max(1, sum(map(len, lines)) // int(1e6 * megabytes))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[::every]), model_writer=model, vocab_size=pieces, model_type='bpe', byte_fallback=True,
        normalization_rule_name='identity', remove_extra_whitespaces=False, add_dummy_prefix=False, split_digits=True,
        max_sentence_length=100000, bos_id=-1, eos_id=-1, num_threads=2, minloglevel=2, user_defined_symbols=symbols)
    return model.getvalue()


def encode(coder, text):
    """Line by line, the line's end included, as the C++ program does."""
    lines = re.findall(r'[^\n]*\n|[^\n]+', text)
    out = []
    for i in range(0, len(lines), 200000):
        out += [np.array(ids, np.uint16) for ids in coder.encode(lines[i:i + 200000], num_threads=2)]
    return np.concatenate(out)


def write(folder, name, arrays, facts):
    """arrays: part -> tokens. Returns the bytes of the two files."""
    data = b''.join(np.ascontiguousarray(a, '<u2').tobytes() for a in arrays.values())
    filters = [dict(id=lzma.FILTER_LZMA2, preset=3, lc=0, lp=1, pb=1)]
    with open(f'{folder}/{name}.tokens.xz', 'wb') as f: f.write(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))
    facts = dict(name=name, lead=LEAD, parts={k: len(a) for k, a in arrays.items()}, sha256=hashlib.sha256(data).hexdigest(), **facts)
    with open(f'{folder}/{name}.json', 'w') as f: json.dump(facts, f, indent=1)
    return os.path.getsize(f'{folder}/{name}.tokens.xz')


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('corpus', choices=('prose', 'code')); a.add_argument('out'); a.add_argument('--downloads')
    a.add_argument('--pieces', type=int, default=8000)
    a.add_argument('--megabytes', type=float, default=160, help='of code for training')
    o = a.parse_args()
    import sentencepiece
    start = time.time()
    def say(*x): print(f'{time.time() - start:6.0f} s ', *x, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = fetch(PACKAGES[o.corpus], o.downloads or temporary)
        say('unpacked')
        parts = cut_prose(root) if o.corpus == 'prose' else cut_code(root, o.megabytes)
    for source, p in parts.items(): say(source, {k: len(t) for k, t in p.items()}, 'characters')
    model = train_vocabulary([p['train'] for p in parts.values()], o.pieces, ['\t' * i for i in range(1, 6)] if o.corpus == 'code' else [])
    say('vocabulary', len(model), 'bytes')
    coder = sentencepiece.SentencePieceProcessor(model_proto=model)
    os.makedirs(f'{o.out}/text/{o.corpus}', exist_ok=True)
    with open(f'{o.out}/{o.corpus}.model', 'wb') as f: f.write(model)
    arrays, sizes = {}, {}
    for source, p in parts.items():
        for part in ('train', 'validation', 'test'):
            arrays[f'{part}_{source}'], sizes[f'{part}_{source}'] = encode(coder, p[part]), len(p[part].encode())
            if part != 'train':
                with open(f'{o.out}/text/{o.corpus}/{part}_{source}.txt', 'w') as f: f.write(p[part])
        assert coder.decode(arrays[f'test_{source}'].tolist()) == p['test'], source
        say(source, {k: len(v) for k, v in arrays.items() if k.endswith('_' + source)}, 'tokens')
    size = write(o.out, o.corpus, arrays, dict(vocabulary=coder.get_piece_size(), bytes=sizes))
    tokens = sum(map(len, arrays.values()))
    say(f'{tokens} tokens in {size / 2 ** 20:.1f} MiB, {8 * size / tokens:.2f} bits a token; train '
        f'{sum(len(v) for k, v in arrays.items() if k.startswith("train"))}')


if __name__ == '__main__': main()
