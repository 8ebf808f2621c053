# SPDX-License-Identifier: MIT
"""scale_test.py LANGUAGE_MODEL NEEDLE FOLDER: examples/pytorch/scale. Which bigrams repeat, against a plain loop; a training that
is cut off again and again, against one that is not; needles and a vocabulary of pieces, against the C++ programs; and all of it
at a tiny size, by small.sh."""
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

SCALE = Path(__file__).resolve().parents[1] / "scale"
sys.path.insert(0, str(SCALE))
import memory_tasks
import pack
import prepare
from candidates import KINDS, Model, forward, layout, logits
from corpus import Corpus, distances, groups
from export import export, window_loss


def check_distances() -> None:
    windows = np.random.default_rng(1).integers(0, 5, (3, 201))
    found = distances(windows, 5)
    for window, row in zip(windows, found):
        last: dict[tuple[int, int], int] = {}
        for t in range(200):
            bigram = (window[t], window[t + 1])
            assert row[t] == (t - last[bigram] if bigram in last else 0)
            last[bigram] = t
    rare = np.arange(25) % 2 == 0
    inside = groups(windows, 5, rare)
    assert (sum(g.astype(int) for g in inside.values()) == 1).all()  # every target is in one group


def write_corpus(folder: Path) -> None:
    random = np.random.default_rng(1)
    arrays = {f"{part}_{source}": random.integers(0, 50, n).astype(np.uint16)
              for source in ("a", "b") for part, n in (("train", 5000), ("validation", 500), ("test", 500))}
    prepare.write(str(folder), "tiny", arrays, dict(vocabulary=50, bytes={}))
    corpus = Corpus(str(folder / "tiny"))
    assert (corpus.train.numpy() == np.concatenate([arrays["train_a"], arrays["train_b"]])).all()
    for context, lead in ((64, 16), (128, 0)):  # every target once, from the first on
        for part, windows in corpus.windows("test", context, lead).items():
            targets = windows[:, 1 + lead :].reshape(-1)
            assert (targets == arrays[part][: len(targets)]).all() and len(targets) > len(arrays[part]) - context
    counts = np.zeros(2500, int)
    train = corpus.train.numpy().astype(int)
    np.add.at(counts, train[:-1] * 50 + train[1:], 1)
    assert (corpus.is_rare() == (counts <= 1)).all()


def check_resuming(folder: Path) -> None:
    run = lambda *arguments: subprocess.run([sys.executable, SCALE / "train_large.py", *map(str, arguments)], cwd=folder, check=True,
                                            stdout=subprocess.DEVNULL)
    run("plan", "--corpus", "tiny", "--kinds", "gate_exact", "--tokens", 20480, "--batch", 2, "--context", 64, "--width", 16, "--heads", 2,
        "--layers", 1, "--mlp", 24, "--chunk", 16, "--rates", .004, "--seeds", 11, "--longest", 0, "--windows", 2, "--every", 1, "--out", "plan.json")
    run("run", "--queue", "plan.json", "--work", "whole", "--out", "whole.jsonl")
    for _ in range(40):  # a second at a time, imports of PyTorch included
        run("run", "--queue", "plan.json", "--work", "cut", "--out", "cut.jsonl", "--until", 2)
        if (folder / "cut.jsonl").exists() and len((folder / "cut.jsonl").read_text().splitlines()) >= len((folder / "whole.jsonl").read_text().splitlines()):
            break
    records = [{(r["stage"], r["rate"]): (r.get("test"), r["validation"], r["curve"]) for r in map(json.loads, open(folder / f"{name}.jsonl"))}
               for name in ("whole", "cut")]
    assert records[0] == records[1] and len(records[0]) > 1, records


def random_model(model: Model, seed: int) -> dict:
    gen = torch.Generator().manual_seed(seed)
    p = {name: start(shape, gen)[None] for name, (shape, start, _) in layout(model).items()}
    return {name: x + 0.2 * torch.randn(x.shape, generator=gen) for name, x in p.items()}


def check_needles(program: str, folder: Path) -> None:
    for kind in ("gate_exact", "gate_keep", "slot_exact", "gdn_published"):
        model = memory_tasks.model_of(kind, 8, 128, 256, True)
        p = random_model(model, 2)
        torch.save({n: x[0] for n, x in p.items()}, folder / "needle.pt")
        pack.split(folder / "needle.pt", folder / "parts")
        pack.join(folder / "parts" / "needle.pt")
        q = torch.load(folder / "parts" / "needle.pt")
        export(kind, q, folder / "needle.safetensors")
        subprocess.run([program, "needle.safetensors", "--longest", "256", "--streams", "1", "--threads", "1", "--write", "stream", "--json",
                        "needle.json"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        data = torch.tensor(list((folder / "stream").read_bytes()))
        tokens, values = data[:256], data[256:]
        assert len(values) == 16 and (tokens[:64:4] == memory_tasks.NEEDLE).all() and (tokens[192::4] == memory_tasks.QUESTION).all()
        y = logits(forward(p, tokens[None, None], model), p, model)[0, 0, 193::4]
        nats = -y.log_softmax(-1).gather(1, values[:, None]).double().mean().item()
        found = json.loads((folder / "needle.json").read_text())["answers"][0]
        print(f"needles, {kind}: {nats:.6f} nats, C++ differs by {abs(found['nats'] - nats):.1e}")
        assert abs(found["nats"] - nats) < 2e-5 and found["right"] == int((y.argmax(-1) == values).sum()) and found["asked"] == 16


def check_pieces(program: str, folder: Path) -> None:
    try:
        import sentencepiece
    except ImportError:
        print("Not compared: a vocabulary of pieces, for want of the Python package sentencepiece.")
        return
    random = np.random.default_rng(3)
    words = ["return", "struct", "int", "x1", "\u00e9", "("]
    text = "".join("\t" * random.integers(0, 4) + " ".join(random.choice(words, 6)) + ";\n" for _ in range(700))
    vocabulary = prepare.train_vocabulary([text], 300, ["\t", "\t\t"])
    coder = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    (folder / "pieces.txt").write_bytes(text.encode())
    data = text.encode()
    split = len(data) - len(data) // 10
    middle = split + (len(data) - split) // 2
    if any(data[i] & 0xC0 == 0x80 for i in (split, middle)): raise ValueError("the cut is inside a character: change the text")
    parts = [prepare.encode(coder, data[a:b].decode()) for a, b in ((0, split), (split, middle), (middle, len(data)))]
    tokens, counts = torch.from_numpy(np.concatenate(parts).astype(np.int64)), [len(x) for x in parts]
    assert coder.decode(tokens.tolist()) == text
    model = Model(KINDS["gate_exact"], vocabulary=coder.get_piece_size(), width=48, heads=2, layers=2, mlp=40, low=torch.float32)
    p = random_model(model, 4)
    export("gate_exact", {n: x[0] for n, x in p.items()}, folder / "pieces.safetensors", vocabulary)
    result = subprocess.run([program, "evaluate", "pieces.safetensors", "--text", "pieces.txt", "--context", "64",
                             "--threads", "1", "--json", "pieces.json"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if b"built without" in result.stderr:
        print("Not compared: a vocabulary of pieces, since the program was built without SentencePiece.")
        return
    assert result.returncode == 0, result.stderr
    expected = window_loss(p, model, tokens, counts[0] + counts[1], len(tokens), 64)
    found = json.loads((folder / "pieces.json").read_text())["test_loss"]
    print(f"pieces: {expected:.6f} nats, C++ differs by {abs(found - expected):.1e}")
    assert abs(found - expected) < 1e-5


def main(language_model: str, needle: str, folder: str) -> None:
    torch.set_grad_enabled(False)
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    check_distances()
    write_corpus(path)
    check_needles(str(Path(needle).resolve()), path)
    check_pieces(str(Path(language_model).resolve()), path)
    check_resuming(path)
    if os.name == "posix":
        subprocess.run(["sh", SCALE / "small.sh", path / "small", "test", sys.executable], check=True, stdout=subprocess.DEVNULL)
        tables = (path / "small" / "tables.md").read_text()
        assert all(word in tables for word in ("generated: test loss of fresh seeds", "loss by position beyond the context", "needle256x8, width 64"))
        assert all(math.isfinite(r.get("test", 0)) for r in map(json.loads, open(path / "small" / "language.jsonl")))
    print("all passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
