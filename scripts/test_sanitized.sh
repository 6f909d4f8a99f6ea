#!/usr/bin/env bash
# Test the C++ under sanitizers: with those of addresses and undefined behaviour every test program, on every
# instruction set that this CPU has, and aoti_run with a small model; with these and that of threads sessions
# of both runners in any sequence.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh
export PATH="$PWD/.venv/bin:$PATH"

scripts/build_native.sh  # for the export below
log=cmake-out/asan/build.log
mkdir -p cmake-out/asan
step "building with sanitizers"
{ cmake --preset asan -DET=ON -DAOTI=ON -DLOWBIT_ATEN=OFF && cmake --build --preset asan; } > "$log" 2>&1 ||
  { tail -n 40 "$log" >&2; die "the build failed; its words are above"; }
step "ctest"
# The tests ask for memory that is not to be had, and expect to be told.
export ASAN_OPTIONS=allocator_may_return_null=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
ctest --preset asan

step "aoti_run"
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
PYTHONPATH=.:tests python -c "import sys, pathlib, tiny; tiny.make_hf(pathlib.Path(sys.argv[1]), 'llama3')" \
  "$folder/tiny" 2> /dev/null
python -m exporter "$folder/tiny" --quantize q4 --max-seq-length 64 \
  --output-aoti-package "$folder/m.pt2" --output-dso "$folder/m.so" 2> /dev/null
for model in "$folder/m.pt2" "$folder/m.so"; do
  cmake-out/asan/aoti_run "$model" --tokens 5,6,7 -t 0 -n 20 --ignore-eos > /dev/null
  cmake-out/asan/tests/reload_tool "$model" 20 > /dev/null
  # Cut off anywhere: an error, never a crash.
  size="$(stat -c %s "$model")"
  cp "$model.json" "$folder/cut.so.json" 2> /dev/null || true
  for share in 1 10 50 90 99; do
    head -c $((size * share / 100)) "$model" > "$folder/cut.${model##*.}"
    status=0
    cmake-out/asan/aoti_run "$folder/cut.${model##*.}" --tokens 5 -n 1 > /dev/null 2>&1 || status=$?
    [ $status = 1 ] || die "aoti_run ended with $status on $share % of ${model##*/}"
  done
done
step "building with the thread sanitizer"
mkdir -p cmake-out/tsan
{ cmake --preset tsan -DET=ON -DAOTI=ON -DLOWBIT_ATEN=OFF &&
  cmake --build --preset tsan --target session_fuzz_et session_fuzz_aoti; } > cmake-out/tsan/build.log 2>&1 ||
  { tail -n 40 cmake-out/tsan/build.log >&2; die "the build failed; its words are above"; }
step "sessions"
export TSAN_OPTIONS=halt_on_error=1
python scripts/fuzz_sessions.py --sequences "${SEQUENCES:-2000}" --build cmake-out/asan --build cmake-out/tsan
step "nothing found"
