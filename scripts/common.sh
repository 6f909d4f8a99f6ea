# Shared by the scripts: messages with the time since the start.

step() { printf '[%3ds] %s\n' "$SECONDS" "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
