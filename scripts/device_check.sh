#!/usr/bin/env bash
# Checks one NVIDIA GPU against the CPU of the same machine, then measures it; prints a Markdown table. At most nine minutes.
# Needs Python with torch 2.11 (whose libtorch is used) and both commands in ARES_BIN (target/release where unset), also as
# .xz files; no cargo. `scripts/device_check.sh --device cpu` tries the script itself where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/device_check.py "$@"
