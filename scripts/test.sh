#!/usr/bin/env bash
# Set up and run every test: C++ (ctest), then Python (pytest). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

scripts/setup.sh test
scripts/build_native.sh
step "ctest"
.venv/bin/ctest --preset release
step "pytest"
.venv/bin/python -m pytest -q "$@"
