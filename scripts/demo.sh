#!/usr/bin/env bash
# Two ARES rounds on the shipped sample set with the embedded Teacher; no key, no network.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="${CARGO_TARGET_DIR:-target}/release"
train="$bin/train"
collect="$bin/collect-feedback"
work=datasets/demo
points=checkpoints/demo

# A fresh copy each time, so that the demo never mixes with older runs.
rm -rf "$work" "$points"
mkdir -p "$work" "$points"
cp -r datasets/sample/dataset.toml datasets/sample/problems.parquet datasets/sample/images "$work/"

cat > "$work/ares.toml" <<'TOML'
[student]
max_source_tokens = 192
[rollout]
samples = 4
max_new_tokens = 96
[rl]
passes = 1
minibatch = 16
accumulation = 2
learning_rate = 5e-5
[sft]
epochs = 4
batch = 16
learning_rate = 1e-3
[answer]
epochs = 3
learning_rate = 1e-3
max_new_tokens = 12
lora_rank = 16
lora_alpha = 32.0
TOML
common=(--data "$work" --config "$work/ares.toml")

"$train" features "${common[@]}"
"$train" init --tokenizer datasets/sample/tokenizer --shape tiny --image-feature-width 128 --out "$points/init"
"$train" pretrain "${common[@]}" --from "$points/init" --out "$points/base" --share 0.5 --epochs 16 --sft-learning-rate 2e-3
"$train" eval "${common[@]}" --round 0 --checkpoint base
for round in 1 2; do
    "$train" --round "$round" "${common[@]}"
    "$collect" --round "$round" "${common[@]}"
    "$train" --round "$round" "${common[@]}"
    "$collect" --round "$round" "${common[@]}"
    "$train" --round "$round" "${common[@]}"
done
"$collect" status "${common[@]}"
