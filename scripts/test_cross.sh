#!/usr/bin/env bash
# Build with zig, which comes from PyPI, what pack needs for other systems, and test it: programs of one file
# for x86-64 and 64-bit Arm (under emulation, where qemu-user-static is installed).
# Usage: scripts/test_cross.sh [glibc|macos] [pytest's arguments]
#   glibc: instead aoti_run for Linux with glibc 2.17
#   macos: instead the runners for macOS, whose files are read and not run
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

scripts/setup.sh test
scripts/setup.sh cross
scripts/build_native.sh
export PATH="$PWD/.venv/bin:$PATH"
case "${1:-}" in
  glibc)
    presets=(linux-x86-64-glibc2.17 linux-aarch64-glibc2.17)
    tests=(tests/pack/test_old_glibc.py)
    shift
    ;;
  macos)
    presets=(macos-arm64)
    tests=(tests/pack/test_macos.py)
    shift
    ;;
  *)
    presets=(linux-x86-64-static linux-aarch64-static)
    tests=(tests/pack/test_cross.py tests/pack/test_empty_root.py::test_a_program_of_one_file)
    ;;
esac
for preset in "${presets[@]}"; do
  step "building $preset"
  log="$(mktemp)"
  { cmake --preset "$preset" && cmake --build --preset "$preset"; } > "$log" 2>&1 ||
    { tail -n 40 "$log" >&2; rm "$log"; die "$preset cannot be built"; }
  rm "$log"
done
step "pytest"
python -m pytest -q -rs "${tests[@]}" "$@"
