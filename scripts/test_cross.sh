#!/usr/bin/env bash
# Build with zig, which comes from PyPI, what pack needs for other systems, and test it: programs of one file
# for x86-64 and 64-bit Arm (under emulation, where qemu-user-static is installed), aoti_run for glibc 2.17.
# Usage: scripts/test_cross.sh [macos] [pytest's arguments]    (macos: instead the runners for macOS, two
# minutes on two cores, whose files are read and not run)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

scripts/setup.sh test
scripts/setup.sh cross
scripts/build_native.sh
export PATH="$PWD/.venv/bin:$PATH"
presets=(linux-x86-64-glibc2.17 linux-x86-64-static linux-aarch64-static)
tests=tests/pack/test_cross.py
if [ "${1:-}" = macos ]; then
  presets=(macos-arm64)
  tests=tests/pack/test_macos.py
  shift
fi
for preset in "${presets[@]}"; do
  step "building $preset"
  log="$(mktemp)"
  { cmake --preset "$preset" && cmake --build --preset "$preset"; } > "$log" 2>&1 ||
    { tail -n 40 "$log" >&2; rm "$log"; die "$preset cannot be built"; }
  rm "$log"
done
step "pytest"
python -m pytest -q -rs "$tests" "$@"
