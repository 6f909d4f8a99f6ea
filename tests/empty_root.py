"""Empty root folders: a bundle unpacked where there are only the C and C++ libraries that its manifest names,
and a shell with the commands of `run.sh`; a program of one file where there is nothing at all."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

ARM_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")  # of Debian's cross compiler
EMULATOR = shutil.which("qemu-aarch64-static")
# The shell is this machine's in both roots: where a program is emulated, bash starts it by the emulator.
COMMANDS = {"x86_64": ("sh", "dirname", "readlink", "getconf")}
COMMANDS["aarch64"] = ("bash", *COMMANDS["x86_64"])
EMULATED = 'exec() { command exec /emulator "$@"; }; . "$0"'


def fill_root(root: Path, machine: str) -> None:
    """Put what `run.sh` needs beside the bundle that was unpacked in `root`: shell, commands and libraries.

    Raises OSError or ValueError where this system lacks one.
    """
    needs = json.loads((root / "MANIFEST.json").read_text())["needs"]
    for name in COMMANDS[machine]:
        program = shutil.which(name)
        if program is None:
            raise ValueError(f"there is no {name} on this system; install it")
        _copy(Path(program), root / "bin" / name)
        for path in _libraries(program):
            _copy(path, root / str(path).lstrip("/"))
    if machine == "aarch64":
        _copy(Path(EMULATOR), root / "emulator")
        for name in ("ld-linux-aarch64.so.1", *needs["libraries"]):
            _copy(ARM_LIBRARIES / name, root / "lib" / name)
    else:
        program = next(path for path in (root / "bin").iterdir() if path.name.endswith("_run"))
        where = {path.name: path for path in _libraries(program)}
        for name in needs["libraries"]:
            _copy(where[name], root / str(where[name]).lstrip("/"))
    # A temporary file, where there is no memfd, needs a place.
    (root / "tmp").mkdir()


def run_script(root: Path, machine: str, *flags: object) -> subprocess.CompletedProcess[bytes]:
    """Run `./run.sh` in the root folder `root`, of which nothing outside is seen."""
    script = ["./run.sh", *map(str, flags)]
    words = script if machine == "x86_64" else ["/bin/bash", "-c", EMULATED, *script]
    return run_in(root, *words)


def run_in(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command with `root` as the root folder and an empty environment but for PATH; by root alone."""
    return subprocess.run(
        words, capture_output=True, env={"PATH": "/bin"}, cwd="/", stdin=subprocess.DEVNULL,
        preexec_fn=lambda: (os.chroot(root), os.chdir("/")),
    )  # fmt: skip


def _libraries(program: str | Path) -> list[Path]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", said)]


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, to)
