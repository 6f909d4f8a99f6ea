# Shared by the scripts: messages with the seconds since the outermost script began.

export SCRIPT_START="${SCRIPT_START:-$(date +%s)}"

step() { printf '[%3ds] %s\n' "$(($(date +%s) - SCRIPT_START))" "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
