#!/usr/bin/env bash
# Fuzz the reader of .pt2 archives, for 600 or the given seconds.
# usage: scripts/fuzz_pt2.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

seconds="${1:-600}"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "'$seconds' is no number of seconds"
folder=cmake-out/fuzz
sources=(tests/fuzz/pt2_fuzz.cpp runner/backends/aoti_artifact.cpp
  runner/system/{cpu_features,crc32,mapped_file,zip_archive}.cpp runner/text/{base64,printable,utf8}.cpp
  runner/model/{artifact_file,cache_types,metadata,sampling_settings,state_metadata}.cpp
  kernels/cache_blocks.cpp kernels/state/layout.cpp)
json=(.venv/lib/python3*/site-packages/nlohmann_json/include)
[ -d "${json[0]}" ] || die "nlohmann-json is missing; run scripts/setup.sh first"
mkdir -p "$folder/corpus"

has_fuzzer() {
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    clang++ -fsanitize=fuzzer,address,undefined -x c++ - -o "$folder/probe" > /dev/null 2>&1
}

packages=(clang libclang-rt-dev)
if ! has_fuzzer; then
  step "installing ${packages[*]}"
  { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}" &&
    has_fuzzer; } > /dev/null 2>&1 || die "install them first: apt-get install ${packages[*]}"
fi

step "building"
clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
  -I . -I runner -isystem "${json[0]}" "${sources[@]}" -o "$folder/pt2_fuzz"
step "making seeds"
PYTHONPATH=. .venv/bin/python tests/fuzz/make_seeds.py "$folder/seeds"
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=allow_addr2line=1
PT2_FUZZ_SEEDS=1 "$folder/pt2_fuzz" "$folder"/seeds/* > "$folder/fuzz.log" 2>&1 ||
  { tail -n 40 "$folder/fuzz.log" >&2; die "a seed was refused; the words are above"; }
step "fuzzing for $seconds s"
"$folder/pt2_fuzz" -max_total_time="$seconds" -max_len=65536 -print_final_stats=1 \
  -artifact_prefix="$folder/" "$folder/corpus" "$folder/seeds" > "$folder/fuzz.log" 2>&1 ||
  { tail -n 60 "$folder/fuzz.log" >&2; die "it failed; the words and the input's path are above"; }
grep -oE '^#[0-9]+\s+DONE +cov: [0-9]+' "$folder/fuzz.log" |
  sed -E 's/^#([0-9]+).*cov: ([0-9]+)/\1 runs, coverage \2/'
