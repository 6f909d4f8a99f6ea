#!/usr/bin/env bash
# Set up and run every test: C++ (ctest), then Python (pytest). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

need_compilers
scripts/setup.sh test
scripts/build_native.sh
step "building aoti_run on libtorch, which the tests compare with"
.venv/bin/cmake --build --preset release --target aoti_run_torch
step "ctest"
.venv/bin/ctest --preset release
step "pytest"
# A worker a CPU, up to four, of 2 GB each; a file's tests, which share what it makes, go to one.
workers="$(nproc)"
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -rs -n "$((workers < 4 ? workers : 4))" --dist loadfile "$@"
