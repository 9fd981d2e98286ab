#!/usr/bin/env bash
# Speed of both commands compared with their peers, as ratios of one run. Missing peers are named and skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
scripts/bench_feedback.sh || status=1
scripts/bench_trainer.sh || status=1
exit "$status"
