#!/usr/bin/env bash
# Evaluate changed trees and values of chat templates with both sanitizers, a million or the given number.
# usage: scripts/fuzz_chat_trees.sh [NUMBER] [SEED]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

number="${1:-1000000}" seed="${2:-1}"
[[ $number =~ ^[1-9][0-9]*$ && $seed =~ ^[0-9]+$ ]] || die "'$number' and '$seed' are no numbers"
folder=cmake-out/fuzz
sources=(tests/cpp/text/template_fuzz_test.cpp runner/text/template_*.cpp
  runner/text/{json_nesting,marked_text,split_pattern,utf8}.cpp)
json=(.venv/lib/python3*/site-packages/nlohmann_json/include)
[ -d "${json[0]}" ] || die "nlohmann-json is missing; run scripts/setup.sh first"
[ -f cmake-out/pcre2/libpcre2-8.a ] || die "PCRE2 is not built; run scripts/build_native.sh et first"
mkdir -p "$folder"

step "building"
g++ -std=c++20 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -DPCRE2_CODE_UNIT_WIDTH=8 \
  -DPCRE2_STATIC -I . -I runner -I cmake-out/pcre2/interface -isystem "${json[0]}" "${sources[@]}" \
  cmake-out/pcre2/libpcre2-8.a -o "$folder/template_fuzz"
step "making seeds"
PYTHONPATH=.:tests .venv/bin/python tests/fuzz/make_chat_seeds.py "$folder/chat_seeds.jsonl"
step "evaluating $number"
export UBSAN_OPTIONS=print_stacktrace=1
"$folder/template_fuzz" "$folder/chat_seeds.jsonl" "$number" "$seed"
