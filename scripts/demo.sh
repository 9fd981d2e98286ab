#!/usr/bin/env bash
# Two ARES rounds on the shipped sample set with the embedded Teacher: no key, no network, less than ten minutes on two
# cores. Each stage reports how long it took.
# ARES_SEED sets the seed of the student, of sampling and of shuffling (default 42).
# ARES_DEMO_DATA names a folder to use instead of datasets/demo; it then contains the checkpoints too.
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
samples = 4
max_new_tokens = 48
seed = ${ARES_SEED:-42}
[rl]
passes = 20
minibatch = 32
accumulation = 2
learning_rate = 1e-4
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

# stage NAME COMMAND...: runs a command under a heading, then says how long it took.
stage() {
    local name=$1 from=$SECONDS
    shift
    echo
    echo "== $name"
    "$@"
    echo "== $name: $((SECONDS - from)) s"
}

stage "image features" "$train" features "${common[@]}"
# With so few parameters and problems, dropout is not needed; with it, this student hardly learns to use the pictures.
stage "student" "$train" init "${common[@]}" --tokenizer datasets/sample/tokenizer --shape tiny --image-feature-width 128 \
    --dropout 0 --out "$points/init"
# The base student is trained only briefly, on a third of the gold solutions, so that it still makes mistakes.
stage "base student" "$train" pretrain "${common[@]}" --from "$points/init" --out "$points/base" --share 0.35 --epochs 20 \
    --sft-learning-rate 2e-3
stage "answers of the base student" "$train" eval "${common[@]}" --round 0 --checkpoint base
for round in 1 2; do
    stage "round $round: rollouts" "$train" --round "$round" "${common[@]}"
    # The embedded Teacher costs nothing; this shows what a paid one would cost.
    stage "round $round: estimate for a paid Teacher" \
        "$collect" estimate --round "$round" --stage scores --teacher anthropic "${common[@]}"
    stage "round $round: scores" "$collect" --round "$round" "${common[@]}"
    stage "round $round: RL, rationales" "$train" --round "$round" "${common[@]}"
    stage "round $round: corrections" "$collect" --round "$round" "${common[@]}"
    stage "round $round: fine-tuning, answers" "$train" --round "$round" "${common[@]}"
    # Answers after RL, for the table in the report.
    stage "round $round: answers after RL" "$train" eval "${common[@]}" --round "$round" --checkpoint rl
done
stage "judgements" "$collect" judge "${common[@]}" --round 2 --against base
stage "report" "$collect" report "${common[@]}" --round 2
stage "status" "$collect" status "${common[@]}"
echo
echo "the whole demo took $((SECONDS - began)) s"
