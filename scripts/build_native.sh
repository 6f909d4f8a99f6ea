#!/usr/bin/env bash
# Build the native runners into cmake-out/.
# Usage: scripts/build_native.sh [aoti|et] [link_torchao_ops]      (neither: both runners)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

et=ON aoti=ON torchao=OFF
for word in "$@"; do
  case "$word" in
    et) aoti=OFF ;;
    aoti) et=OFF ;;
    link_torchao_ops) torchao=ON ;;
    *) echo "error: unknown argument $word; use aoti or et, then optionally link_torchao_ops" >&2
       exit 2 ;;
  esac
done
need_compilers
scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
step "configuring"
cmake --preset release -DET=$et -DAOTI=$aoti -DLINK_TORCHAO_OPS=$torchao \
  ${TORCHAO_OPS_LIBRARY:+-DTORCHAO_OPS_LIBRARY="$TORCHAO_OPS_LIBRARY"} > cmake-out.log 2>&1 ||
  { cat cmake-out.log >&2; rm -f cmake-out.log; die "cmake failed; its words are above"; }
rm -f cmake-out.log
# The largest file takes 0.7 GB to compile: on a board with 2 GB that is one at a time.
jobs="$(nproc)" free="$(awk '/^MemAvailable:/ { print int($2 / 800000) }' /proc/meminfo 2> /dev/null || true)"
if [ -n "$free" ] && [ "$free" -lt "$jobs" ]; then jobs=$((free > 1 ? free : 1)); fi
step "building, $jobs at a time"
cmake --build --preset release -j "$jobs"
