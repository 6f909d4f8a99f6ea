#!/usr/bin/env bash
# Build wheels twice into FOLDER, and check that both builds have the same bytes and that each wheel is one for MACHINE:
# scripts/build_wheels_twice.sh FOLDER MACHINE [arguments of build_wheels.sh...]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

[ $# -ge 2 ] || die "give FOLDER and MACHINE"
folder="$1" machine="$2"
shift 2
DIST="$folder/first" scripts/build_wheels.sh "$@"
rm -rf cmake-out/wheel cmake-out/wheel-aarch64
DIST="$folder" scripts/build_wheels.sh "$@"
for wheel in "$folder"/*.whl; do
  cmp "$wheel" "$folder/first/$(basename "$wheel")" || die "two builds of $wheel have other bytes"
  [ "$(stat -c %s "$wheel")" -le 6000000 ] || die "$wheel has more than 6 MB"
  .venv/bin/python scripts/check_wheel.py "$wheel" "$machine"
done
