#!/usr/bin/env bash
# Compares the speed of both commands with their peers, as ratios within one run. Missing peers of
# collect-feedback are named and skipped; without those of train, it is not measured, which is an error.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
scripts/bench_feedback.sh || status=1
scripts/bench_trainer.sh || status=1
exit "$status"
