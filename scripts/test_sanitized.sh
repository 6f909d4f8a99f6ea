#!/usr/bin/env bash
# Test the kernels, on the thread pool too, under the address and undefined-behaviour sanitizers, on every
# instruction set that this CPU has.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
export PATH="$PWD/.venv/bin:$PATH"

log=cmake-out/asan/build.log
mkdir -p cmake-out/asan
step "building with sanitizers"
{ cmake --preset asan -DET=OFF -DAOTI=OFF -DLOWBIT_ATEN=OFF &&
  cmake --build --preset asan --target kernel_tests; } > "$log" 2>&1 ||
  { tail -n 40 "$log" >&2; die "the build failed; its words are above"; }
step "ctest"
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
ctest --preset asan -R '^kernels_'
