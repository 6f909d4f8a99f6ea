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

# Builds the kernels' tests in the folder $1; further arguments configure it for them alone.
build() {
  local folder="$1" log="$1/kernel_tests.log"
  shift
  mkdir -p "$folder"
  if [ $# -gt 0 ]; then
    cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DET=OFF -DAOTI=OFF -DLOWBIT_ATEN=OFF "$@" > "$log" 2>&1 ||
      { cat "$log" >&2; die "cmake failed; its words are above"; }
  fi
  cmake --build "$folder" --target kernel_tests > "$log" 2>&1 ||
    { tail -n 40 "$log" >&2; die "the build failed; its words are above"; }
}

# Runs the tests in the folder $1 with the command that follows, as many at once as there are CPUs.
# Prints what they report: the hashes of their results, and the entry that they ran on.
results() {
  local folder="$1" logs
  shift
  logs="$(mktemp -d)"
  # shellcheck disable=SC2016 # $0 and so on are the inner shell's
  ls "$folder"/tests/kernels_*_test |
    xargs -P "$(nproc)" -I TEST sh -c \
      'log="$0/$(basename "$1")"; shift; "$@" best > "$log" 2>&1 || mv "$log" "$log.failed"' \
      "$logs" TEST "$@" TEST
  if ls "$logs"/*.failed > /dev/null 2>&1; then
    tail -n 40 "$logs"/*.failed >&2
    rm -r "$logs"
    die "tests failed: $* $folder/tests/..."
  fi
  cat "$logs"/* | grep -E '^bits |^ok +on '
  rm -r "$logs"
}

step "building for aarch64"
build cmake-out/aarch64 -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64-linux-gnu.cmake" \
  -DCMAKE_EXE_LINKER_FLAGS=-static
step "building for this machine"
if [ -f cmake-out/build.ninja ]; then  # of scripts/build_native.sh
  native_folder=cmake-out
  build "$native_folder"
else
  native_folder=cmake-out/native
  build "$native_folder" -DBUILD_TESTING=ON
fi
native="$(results "$native_folder" | grep '^bits ')"
for cpu in "${cpus[@]}"; do
  model="${cpu%:*}" entry="${cpu#*:}"
  step "running on $model"
  output="$(results cmake-out/aarch64 qemu-aarch64-static -cpu "$model")"
  ran_on="$(grep '^ok' <<< "$output" | sort -u)"
  [ "$ran_on" = "ok     on $entry" ] || die "$model should choose $entry: $ran_on"
  emulated="$(grep '^bits ' <<< "$output")"
  [ "$native" = "$emulated" ] ||
    { diff <(echo "$native") <(echo "$emulated") >&2 || true; die "other bits on $model"; }
done
printf '%s the bits of this machine, on %s\n' "$(sha256sum <<< "$native" | cut -c1-16)" "${cpus[*]}"
