#!/usr/bin/env bash
# Make .venv with the pinned dependencies, and unpack the C++ ones into .deps.
# Usage: scripts/setup.sh [test|cross]        (test: also what the tests need; cross: also zig, 100 MB)
# PYTHON chooses the interpreter. Where pip can see a CPU build of torch (a wheel index or folder
# named by PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), that one is taken; it saves gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

wanted="build"
[ "${1:-}" = test ] && wanted="build,test"
python="${PYTHON:-python3}"
stamp=.venv/.installed
state="$wanted $(cat pyproject.toml scripts/install.py | cksum)"

if ! .venv/bin/python -c 'import pip' 2> /dev/null; then
  command -v "$python" > /dev/null || die "there is no $python; install Python 3.10 to 3.13, or name one with PYTHON=..."
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
    die "$python is $("$python" -V 2>&1), and the pinned packages are for 3.10 to 3.13; name one of these with PYTHON=..."
  step "making .venv"
  rm -rf .venv
  "$python" -m venv .venv || { rm -rf .venv; die "$python cannot make a virtual environment; install its venv module (Debian: python3-venv)"; }
fi
installed="$(cat "$stamp" 2> /dev/null || true)"
if [ "$installed" != "$state" ] && [ "$installed" != "${state/build /build,test }" ]; then
  step "installing the pinned packages"
  .venv/bin/python scripts/install.py "$wanted"
  echo "$state" > "$stamp"
fi
if [ "${1:-}" = cross ]; then
  step "installing zig"
  .venv/bin/python scripts/install.py --only cross
fi
# Fetches the source distribution $1-$2, which has the sources of $3, into .deps/.
parts=()
trap 'rm -rf "${parts[@]}"' EXIT
fetch_sources() {
  local part
  [ ! -d ".deps/$1-$2" ] || return 0
  step "fetching $3's sources"
  mkdir -p .deps
  part="$(mktemp -d .deps/part.XXXXXX)"
  parts+=("$part")
  .venv/bin/python -m pip download -q --no-deps --no-binary "$1" -d "$part" "$1==$2"
  tar xzf "$part/$1-$2.tar.gz" -C "$part"
  mv "$part/$1-$2" .deps/
}
fetch_sources pcre2 0.7.1 PCRE2
fetch_sources pynacl 1.6.2 libsodium
