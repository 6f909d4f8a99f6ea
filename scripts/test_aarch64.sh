#!/usr/bin/env bash
# Test the kernels on aarch64, under emulation: they are cross-compiled, run on the CPUs below, and
# must give the bits that they give on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

# A CPU that qemu knows, and the entry of the kernels' table that is its best.
cpus=(cortex-a72:neon cortex-a76:neon_dotprod max:neon_i8mm)
export PATH="$PWD/.venv/bin:$PATH"

missing=()
command -v aarch64-linux-gnu-g++ > /dev/null || missing+=(g++-aarch64-linux-gnu)
command -v qemu-aarch64-static > /dev/null || missing+=(qemu-user-static)
if [ ${#missing[@]} -gt 0 ]; then
  step "installing ${missing[*]}"
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } \
    > /dev/null 2>&1 || die "install them first: apt-get install ${missing[*]}"
fi

# Builds the kernels and their tests alone into the folder $1; further arguments go to cmake.
build() {
  local folder="$1"
  shift
  mkdir -p "$folder"
  { cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DET=OFF -DAOTI=OFF -DLOWBIT_ATEN=OFF "$@" && cmake --build "$folder"; } \
    > "$folder/build.log" 2>&1 || { tail -n 40 "$folder/build.log" >&2; die "the build failed"; }
}

# Runs every kernel test in the folder $1 with the command that follows, and prints what they
# report: the hashes of their results.
results() {
  local test output folder="$1"
  shift
  for test in "$folder"/tests/kernels_*_test; do
    output="$("$@" "$test" best 2>&1)" || { printf '%s\n' "$output" >&2; die "$test failed"; }
    grep '^bits ' <<< "$output" || true
  done
}

step "building for aarch64"
build cmake-out/aarch64 -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64-linux-gnu.cmake" \
  -DCMAKE_EXE_LINKER_FLAGS=-static
step "building for this machine"
build cmake-out/kernels
native="$(results cmake-out/kernels)"
for cpu in "${cpus[@]}"; do
  step "running on ${cpu%:*}"
  emulated="$(results cmake-out/aarch64 qemu-aarch64-static -cpu "${cpu%:*}")"
  [ "$native" = "$emulated" ] ||
    { diff <(echo "$native") <(echo "$emulated") >&2 || true; die "other bits on ${cpu%:*}"; }
done
printf 'the same bits on %s: %s\n' "${cpus[*]}" "$(sha256sum <<< "$native" | cut -c1-16)"
