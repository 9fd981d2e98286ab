#!/usr/bin/env bash
# Speed of both commands beside their peers, as ratios of one run. Peers that are not there are named and left out.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
scripts/bench_feedback.sh || status=1
scripts/bench_trainer.sh || status=1
exit "$status"
