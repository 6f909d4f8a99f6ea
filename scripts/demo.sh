#!/usr/bin/env bash
# From nothing to text: install, build, export SmolLM2-135M, run it. Again, it does only what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

scripts/build_native.sh
# Exported again when the exporter's code or pins are newer, or the last export was not the demo's.
stamp=.venv/.demo
if [ ! -f smollm2.pte ] || [ "$(cksum smollm2.pte)" != "$(cat "$stamp" 2> /dev/null)" ] ||
  [ -n "$(find exporter pyproject.toml -newer smollm2.pte -type f ! -name '*.pyc' | head -n 1)" ]; then
  step "exporting SmolLM2-135M"
  .venv/bin/python -m exporter smollm2 --output-pte
  cksum smollm2.pte > "$stamp"
fi
step "running it"
./cmake-out/et_run smollm2.pte -t 0 -i "The capital of France is"
