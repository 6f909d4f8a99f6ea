#!/usr/bin/env bash
# From nothing to text and a verdict: install, build, export SmolLM2-135M, run it, verify it. Again, it
# does only what changed. Fails when the artifact is not the checkpoint's model.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

artifact=smollm2.pte
made=.venv/.demo verified=.venv/.demo-verified # checksum of the artifact; and the verdict on it

# Whether any of the files and folders after FILE has changed since FILE was written.
changed_since() {
  local file=$1
  shift
  [ -n "$(find "$@" -newer "$file" -type f ! -name '*.pyc' | head -n 1)" ]
}

scripts/build_native.sh
# Exported again when the exporter's code or pins are newer, or the last export was not the demo's.
if [ ! -f "$artifact" ] || [ "$(cksum "$artifact")" != "$(cat "$made" 2> /dev/null)" ] ||
  changed_since "$artifact" exporter pyproject.toml; then
  step "exporting SmolLM2-135M"
  .venv/bin/python -m exporter smollm2 --output-pte
  cksum "$artifact" > "$made"
fi
step "running it"
./cmake-out/et_run "$artifact" -t 0 -i "The capital of France is"

# What was verified is what is there, unless the artifact, the exporter or the runner is another.
if [ ! -f "$verified" ] || [ "$(head -n 1 "$verified")" != "$(cat "$made")" ] ||
  changed_since "$verified" exporter pyproject.toml cmake-out/python; then
  step "verifying it against its checkpoint"
  rm -f "$verified"
  if ! report=$(.venv/bin/python -m exporter verify "$artifact"); then
    printf '%s\n' "$report"
    die "the artifact is not the checkpoint's model; the lines above say what differs"
  fi
  cat "$made" - <<< "$(tail -n 1 <<< "$report")" > "$verified"
else
  step "nothing changed since it was verified; the verdict was:"
fi
tail -n 1 "$verified"
