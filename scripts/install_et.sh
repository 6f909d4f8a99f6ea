#!/usr/bin/env bash
# ExecuTorch comes with the other packages here, from a wheel; this name is kept for people who
# come from torchchat, where it was a step of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
.venv/bin/python -c 'import importlib.metadata as m; print("executorch", m.version("executorch"))'
