#!/bin/sh
# SPDX-License-Identifier: MIT
#
# small.sh OUT [BUDGET] [PYTHON]: everything of this folder at a small size on a CPU, on generated text. BUDGET is small (some minutes
# of two cores) or test (seconds, for the tests). The numbers say nothing about mixers.
set -e
here=$(cd "$(dirname "$0")" && pwd)
out=$1 budget=${2:-small} python=${3:-python3}
mkdir -p "$out"
cd "$out"
rm -rf work models language.jsonl tasks.jsonl
if [ "$budget" = test ]; then
  kinds="gate_exact gdn_published" tokens=8e3 seeds=11,12,13 shape="--width 16 --heads 2 --layers 1 --mlp 24 --context 64 --batch 2 --chunk 16 --rates .004 .008 .016"
  long="--longest 256 --long-windows 1 --windows 2" tasks="recall64x4 needle256x8" jobs="gate_exact/8@64 gdn_published/8@64"
  steps="--steps 2 --batch 2 --rates .002 .004 --longest 512 --sequences 4" until=200
else
  kinds="gate_exact slot_exact gate_window gdn_published mamba2_published softmax_gate gate_frozen"
  tokens=1e5 seeds=11,12,13 shape="--width 64 --heads 2 --layers 2 --mlp 128 --context 256 --batch 4 --rates .004 .008 .016"
  long="--longest 1024 --long-windows 2 --windows 10" tasks="recall64x4 copy needle256x8" jobs="gate_exact/8@64 gdn_wide/8@64 mamba2_plain/8@64 softmax_gate/8@64"
  steps="--steps 60 --batch 4 --rates .002 .004 --seeds 1-2 --longest 1024 --sequences 32" until=1200
fi
"$python" - "$here" <<END
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, prepare
random, size = np.random.default_rng(1), 60 if '$budget' == 'test' else 1000
words = [random.integers(0, 250, random.integers(1, 6)) for _ in range(200)]
def text(n):   # every part repeats its few words
    parts = []
    for _ in range(n // 300): parts += [words[i] for i in random.choice(random.choice(200, 12), 100)]
    return np.concatenate(parts).astype(np.uint16)[:n]
arrays = {f'{part}_{source}': text(n * size // 60) for source in ('one', 'two') for part, n in (('train', 9000), ('validation', 900), ('test', 900))}
prepare.write('.', 'generated', arrays, dict(vocabulary=250, bytes={}))
END
"$python" "$here/train_large.py" plan --corpus generated --kinds $kinds --tokens $tokens --seeds $seeds $shape $long --out plan.json
"$python" "$here/train_large.py" trial --queue plan.json --work work --trial-steps 1
"$python" "$here/train_large.py" run --queue plan.json --work work --until $until --out language.jsonl --save models
for task in $tasks; do "$python" "$here/memory_tasks.py" $jobs --task $task $steps --out tasks.jsonl --save models; done
"$python" "$here/report.py" language.jsonl tasks.jsonl --out figures > tables.md
cat tables.md
