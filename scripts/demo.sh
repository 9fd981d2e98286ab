#!/usr/bin/env bash
# Two ARES rounds on the shipped sample set with the embedded Teacher; no key, no network. Below ten minutes on two cores.
# ARES_SEED sets the seed of the student, of sampling and of shuffling (42 where unset). ARES_DEMO_DATA names another folder
# to work in than datasets/demo; it then contains the checkpoints too.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="${ARES_BIN:-${CARGO_TARGET_DIR:-target}/release}"
train="$bin/train"
collect="$bin/collect-feedback"
work="${ARES_DEMO_DATA:-datasets/demo}"
points="checkpoints/demo"
[ -z "${ARES_DEMO_DATA:-}" ] || points="$work/checkpoints"
if [ "$work" != datasets/demo ] && [ ! -e "$work/.ares-demo" ] && [ -n "$(ls -A "$work" 2>/dev/null)" ]; then
    echo "$work exists, and was not created by the demo; next: choose another folder in ARES_DEMO_DATA" >&2
    exit 2
fi
began=$SECONDS

# A fresh copy each time, so that the demo never mixes with older runs.
rm -rf "$work" "$points"
mkdir -p "$work"
touch "$work/.ares-demo"
cp -r datasets/sample/dataset.toml datasets/sample/problems.parquet datasets/sample/images "$work/"

cat > "$work/ares.toml" <<TOML
[student]
checkpoints = "$points"
max_source_tokens = 192
use_caption = false
decode_batch = 64
[rollout]
samples = 3
max_new_tokens = 48
seed = ${ARES_SEED:-42}
[rl]
passes = 1
minibatch = 32
accumulation = 2
learning_rate = 5e-5
[sft]
epochs = 12
batch = 16
learning_rate = 1e-3
[answer]
epochs = 5
learning_rate = 2e-3
max_new_tokens = 12
lora_rank = 32
lora_alpha = 64.0
TOML
common=(--data "$work" --config "$work/ares.toml")

"$train" features "${common[@]}"
# So few parameters and problems need no dropout; with it, this student hardly learns to use the pictures.
"$train" init "${common[@]}" --tokenizer datasets/sample/tokenizer --shape tiny --image-feature-width 128 --dropout 0 \
    --out "$points/init"
# The base student learns briefly from a third of the gold solutions, so that it makes mistakes.
"$train" pretrain "${common[@]}" --from "$points/init" --out "$points/base" --share 0.35 --epochs 20 --sft-learning-rate 2e-3
"$train" eval "${common[@]}" --round 0 --checkpoint base
for round in 1 2; do
    "$train" --round "$round" "${common[@]}"
    # The embedded Teacher costs nothing; this is what a paid one would cost.
    "$collect" estimate --round "$round" --stage scores --teacher anthropic "${common[@]}"
    "$collect" --round "$round" "${common[@]}"
    "$train" --round "$round" "${common[@]}"
    "$collect" --round "$round" "${common[@]}"
    "$train" --round "$round" "${common[@]}"
    # The stage after RL, for the table.
    "$train" eval "${common[@]}" --round "$round" --checkpoint rl
    echo "after round $round: $((SECONDS - began)) s"
done
"$collect" judge "${common[@]}" --round 2 --against base
"$collect" report "${common[@]}" --round 2
"$collect" status "${common[@]}"
echo "the whole demo took $((SECONDS - began)) s"
