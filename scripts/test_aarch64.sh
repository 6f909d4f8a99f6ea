#!/usr/bin/env bash
# Test the kernels and both runners on aarch64, under emulation: they are cross-compiled, run on the
# CPUs below, and must give the bits that they give on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

# A CPU that qemu knows, and the entry of the kernels' table that is its best.
cpus=(cortex-a72:neon cortex-a76:neon_dotprod max:neon_i8mm)
emulated=(qemu-aarch64-static -L /usr/aarch64-linux-gnu)
export PATH="$PWD/.venv/bin:$PATH"

missing=()
command -v aarch64-linux-gnu-g++ > /dev/null || missing+=(g++-aarch64-linux-gnu)
command -v qemu-aarch64-static > /dev/null || missing+=(qemu-user-static)
if [ ${#missing[@]} -gt 0 ]; then
  step "installing ${missing[*]}"
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } \
    > /dev/null 2>&1 || die "install them first: apt-get install ${missing[*]}"
fi
scripts/build_native.sh

# Runs a command, whose output is shown when it fails.
quietly() {
  local log
  log="$(mktemp)"
  "$@" > "$log" 2>&1 || { tail -n 40 "$log" >&2; rm "$log"; die "failed: $*"; }
  rm "$log"
}

# Runs the kernels' tests in the folder $1 with the command that follows, as many at once as there are
# CPUs. Prints what they report: the hashes of their results, and the entry that they ran on.
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

# The logits of a prompt, taken at once and token by token as in decoding: their hash. Further
# arguments run the runner.
logits() {
  local model="$1" out chunk
  shift
  out="$(mktemp)"
  for chunk in 256 1; do
    quietly "$@" "$model" --tokens 504,3575,282,4649,314 --prefill-chunk $chunk --logits-out "$out.$chunk"
  done
  cat "$out.256" "$out.1" | sha256sum
  rm "$out" "$out.256" "$out.1"
}

step "building for aarch64"
quietly cmake --preset aarch64
quietly cmake --build --preset aarch64 --target kernel_tests et_run aoti_run
stripped="$(mktemp)"
aarch64-linux-gnu-strip cmake-out/aarch64/aoti_run -o "$stripped"
size="$(stat -c %s "$stripped")"
rm "$stripped"
[ "$size" -le 1800000 ] || die "aoti_run has $size bytes, stripped"
needed="$(aarch64-linux-gnu-readelf -d cmake-out/aarch64/aoti_run | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
  grep -vE '^(libc|libm|libstdc\+\+|libgcc_s|ld-linux-aarch64)\.so' || true)"
[ -z "$needed" ] || die "aoti_run needs $needed"
native="$(results cmake-out | grep '^bits ')"
for cpu in "${cpus[@]}"; do
  model="${cpu%:*}" entry="${cpu#*:}"
  step "running the kernels' tests on $model"
  output="$(results cmake-out/aarch64 "${emulated[@]}" -cpu "$model")"
  ran_on="$(grep '^ok' <<< "$output" | sort -u)"
  [ "$ran_on" = "ok     on $entry" ] || die "$model should choose $entry: $ran_on"
  bits="$(grep '^bits ' <<< "$output")"
  [ "$native" = "$bits" ] ||
    { diff <(echo "$native") <(echo "$bits") >&2 || true; die "other bits on $model"; }
done

step "running bundles in empty roots"
python -m pytest -q -rs tests/pack/test_empty_root.py -k "bundle and aarch64"
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
for dtype in q4 bf16; do
  step "exporting SmolLM2, $dtype"
  asked=(--dtype bf16)
  [ $dtype = q4 ] && asked=(--quantize q4)
  quietly python -m exporter smollm2 "${asked[@]}" --target x86-64-v3,aarch64 \
    --output-pte "$folder/s.pte" --output-aoti-package "$folder/s.pt2"
  step "running it here and on ${cpus[*]}"
  expected="$(logits "$folder/s.pt2" cmake-out/aoti_run)"
  for pair in et_run:s.pte aoti_run:s.pt2; do
    runner="${pair%:*}" file="$folder/${pair#*:}"
    [ "$(logits "$file" "cmake-out/$runner")" = "$expected" ] || die "other bits of $runner here"
    for cpu in "${cpus[@]}"; do
      [ "$(logits "$file" "${emulated[@]}" -cpu "${cpu%:*}" "cmake-out/aarch64/$runner")" = "$expected" ] ||
        die "other bits of $runner on ${cpu%:*}"
    done
  done
  text="$("${emulated[@]}" cmake-out/aarch64/aoti_run "$folder/s.pt2" -t 0 -n 12 -i "The capital of France is")"
  case "$text" in *Paris*) ;; *) die "aoti_run on aarch64 says: $text" ;; esac
  printf '%s logits of %s, of both runners, here and on %s\n' "${expected:0:16}" "$dtype" "${cpus[*]}"
  [ $dtype = q4 ] || continue
  for file in s.pte s.pt2; do
    step "packing $file for aarch64, which runs its self-test"
    quietly python -m exporter pack "$folder/$file" --no-verify --target linux-aarch64 -o "$folder/${file/./-}"
    grep -q '"on": "emulated aarch64"' "$folder/${file/./-}/MANIFEST.json" || die "$file was packed untested"
    rm -r "$folder/${file/./-}"
  done
done
printf '%s the bits of the kernels here and on %s\n' "$(sha256sum <<< "$native" | cut -c1-16)" "${cpus[*]}"
