#!/usr/bin/env bash
# Compares the trainer with transformers on the same work, as ratios within one run. Further arguments go to
# scripts/bench_trainer.py (--shapes, --work, --lengths, …). ARES_PEERS: folder with the peers' bench_*.py (default
# ../shared/peers/trainer beside the repository); ARES_PYTHON: a Python with torch 2.11 and transformers 5; TRAIN: the
# binary.
set -euo pipefail
cd "$(dirname "$0")/.."
export ARES_PEERS="${ARES_PEERS:-../shared/peers}"
export TRAIN="${TRAIN:-${CARGO_TARGET_DIR:-target}/release/train}"
[ -x "$TRAIN" ] || { echo "$TRAIN: expected the built trainer; next: cargo build --release -p trainer" >&2; exit 2; }
exec "${ARES_PYTHON:-python3}" scripts/bench_trainer.py "$@"
