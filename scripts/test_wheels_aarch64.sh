#!/usr/bin/env bash
# Build the wheel for 64-bit Arm for each of the Pythons named, twice, and try it under emulation: its programs, and by
# Debian's Python of that machine, where it has one of the version, pip, the modules and the verbs.
# Usage: scripts/test_wheels_aarch64.sh [PYTHON...]        (default: the one of .venv)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

[ $# -gt 0 ] || set -- .venv/bin/python
command -v qemu-aarch64-static > /dev/null || die "there is no qemu-aarch64-static; install it (Debian: apt-get install qemu-user-static)"
scripts/build_native.sh
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
dist="$folder/wheels"
scripts/build_wheels_twice.sh "$dist" aarch64 --target aarch64 "$@"

step "exporting SmolLM2"
asked=(--prompt "The capital of France is" --temperature 0 --max-new-tokens 12)
.venv/bin/python -m exporter smollm2 --quantize q4 --target x86-64,aarch64 --output-pte "$folder/s.pte" \
  --output-aoti-package "$folder/s.pt2" 2> /dev/null
expected="$(.venv/bin/python -m exporter generate "$folder/s.pte" "${asked[@]}" 2> /dev/null)"
case "$expected" in *Paris*) ;; *) die "the exporter says here: $expected" ;; esac

# Unpacks Debian's Python $1 for 64-bit Arm, with the libraries that it needs, in $2. Nothing is installed.
unpack_python() {
  local state="$2.apt" options package
  mkdir -p "$2" "$state/lists/partial" "$state/archives/partial"
  : > "$state/status"
  options=(-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=0 -o APT::Sandbox::User=root
    -o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state")
  apt-get "${options[@]}" update > /dev/null 2>&1 || true # sources that have nothing for this machine
  apt-get "${options[@]}" -y --download-only install "python$1" libstdc++6 > "$folder/apt.log" 2>&1 ||
    { tail -n 3 "$folder/apt.log" >&2; return 1; }
  for package in "$state"/archives/*.deb; do dpkg-deb -x "$package" "$2"; done
  [ -e "$2/lib/ld-linux-aarch64.so.1" ] || ln -s usr/lib "$2/lib"
}

# Where pip has what the wheel needs: a wheel of pip itself, which runs as it is.
.venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d "$folder/pip" pip==25.3
pip="$(echo "$folder"/pip/pip-*.whl)/pip"
checkout="$PWD"
cd "$folder" # away from the checkout, which python would import
for wheel in "$dist"/*.whl; do
  version="$(basename "$wheel" | sed 's/.*-cp3\([0-9]*\)-cp3.*/3.\1/')"
  step "running the programs of the wheel for Python $version"
  rm -rf files
  "$checkout/.venv/bin/python" -m zipfile -e "$wheel" files
  for pair in et_run:s.pte aoti_run:s.pt2; do
    program="files/exporter/_native/bin/${pair%:*}"
    chmod +x "$program"
    qemu-aarch64-static -L /usr/aarch64-linux-gnu "$program" "${pair#*:}" --self-test > /dev/null ||
      die "${pair%:*} of $wheel fails its self-test"
  done
  if ! unpack_python "$version" "$folder/root-$version"; then
    step "Debian has no Python $version here: the wheel's modules were not loaded"
    continue
  fi
  python=(qemu-aarch64-static -L "$folder/root-$version" "$folder/root-$version/usr/bin/python$version")
  step "installing it with Python $version for 64-bit Arm"
  "${python[@]}" "$pip" install -q --disable-pip-version-check --no-compile --target "site-$version" "$wheel"
  export PYTHONPATH="$folder/site-$version"
  for file in s.pte s.pt2; do
    step "its verbs on $file"
    "${python[@]}" -m exporter inspect "$file" > /dev/null
    text="$("${python[@]}" -m exporter generate "$file" "${asked[@]}" 2> /dev/null)"
    [ "$text" = "$expected" ] || die "Python $version for 64-bit Arm says: $text"
  done
  unset PYTHONPATH
  step "the modules for Python $version give the text that they give here"
done
