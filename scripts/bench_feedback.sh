#!/usr/bin/env bash
# Measures the speed of collect-feedback and its peers in one run: see scripts/bench_feedback.py --help.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/bench_feedback.py "$@"
