#!/usr/bin/env bash
# From nothing to text: install, build, export SmolLM2-135M, run it. Again, it does only what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

scripts/build_native.sh
sources=(exporter exporter/recipes pyproject.toml)
if [ ! -f smollm2.pte ] || [ -n "$(find "${sources[@]}" -newer smollm2.pte -name '*.*' -type f ! -name '*.pyc' | head -n 1)" ]; then
  step "exporting SmolLM2-135M"
  .venv/bin/python -m exporter smollm2 --output-pte
fi
step "running it"
./cmake-out/et_run smollm2.pte -t 0 -i "The capital of France is"
