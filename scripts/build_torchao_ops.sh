#!/usr/bin/env bash
# Build torchao's own low-bit operators from its source distribution, for Arm CPUs and Apple GPUs.
# Usage: scripts/build_torchao_ops.sh [mps]
# Then: scripts/build_native.sh et link_torchao_ops, with TORCHAO_OPS_LIBRARY=FILE as printed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

mps="${1:-}"
[ -z "$mps" ] || [ "$mps" = mps ] || { echo "error: unknown argument $mps; use mps or nothing" >&2; exit 2; }
case "$(uname -s)-$(uname -m)" in
  Darwin-arm64 | Linux-aarch64) ;;
  *) die "torchao's low-bit operators run on Arm only, and this is $(uname -m); exported models do not need them" ;;
esac
[ -z "$mps" ] || [ "$(uname -s)" = Darwin ] || die "mps needs macOS on Apple silicon"
scripts/setup.sh
if [ ! -d .deps/torchao-0.18.0 ]; then
  step "fetching torchao's sources"
  mkdir -p .deps
  .venv/bin/python -m pip download -q --no-deps --no-binary torchao --no-build-isolation \
    -d .deps torchao==0.18.0
  tar xzf .deps/torchao-0.18.0.tar.gz -C .deps
fi
source_dir=.deps/torchao-0.18.0/torchao/csrc/cpu
[ -z "$mps" ] || source_dir=.deps/torchao-0.18.0/torchao/experimental/ops/mps
export PATH="$PWD/.venv/bin:$PATH"
step "building"
cmake -S "$source_dir" -B .deps/torchao-build -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DTORCHAO_BUILD_CPU_AARCH64=ON -DTORCHAO_BUILD_EXECUTORCH_OPS=ON \
  -DCMAKE_PREFIX_PATH="$(.venv/bin/python -c 'import torch; print(torch.utils.cmake_prefix_path)')"
cmake --build .deps/torchao-build
find "$PWD/.deps/torchao-build" -name 'libtorchao_ops*' -print
