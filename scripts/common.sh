# Shared by the scripts: messages with the seconds since the outermost script began, and what they need.

export SCRIPT_START="${SCRIPT_START:-$(date +%s)}"

step() { printf '[%3ds] %s\n' "$(($(date +%s) - SCRIPT_START))" "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Ends with one line unless there are a C++20 compiler (CXX, or one of the names that CMake looks for)
# and a C compiler. CXX may be several words, such as "ccache g++".
need_compilers() {
  local name words=()
  if [ -n "${CXX:-}" ]; then
    if command -v "$CXX" > /dev/null; then words=("$CXX"); else mapfile -t words < <(xargs -n 1 <<< "$CXX" 2> /dev/null); fi
  else
    for name in c++ g++ clang++; do
      if command -v "$name" > /dev/null; then words=("$name"); break; fi
    done
  fi
  [ ${#words[@]} -gt 0 ] ||
    die "there is no C++ compiler; install one (Debian: apt-get install g++), or name it with CXX=..."
  "${words[@]}" -std=c++20 -fsyntax-only -x c++ - <<< '#include <span>' > /dev/null 2>&1 ||
    die "${words[*]} does not compile C++20; install g++ 11 or clang 14, or newer, or name another with CXX=..."
  [ -n "${CC:-}" ] || command -v cc > /dev/null || command -v gcc > /dev/null || command -v clang > /dev/null ||
    die "there is no C compiler; install one (Debian: apt-get install gcc), or name it with CC=..."
}
