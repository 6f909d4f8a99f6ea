"""Run the self-test of a packed program: on this machine, or emulated where that can be done."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from exporter.lower.targets import this_machine

NOT_RUN = "not run"
_CLEARED = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LOWBIT_ISA")


def run_self_test(
    command: Sequence[str | Path], machine: str, own_libraries: bool
) -> dict[str, object] | str:
    """Run `command`, a program for `machine`, with --self-test.

    Args:
        own_libraries: the program needs no library of the system.

    Returns what a manifest says: what was compared, or why nothing was. Raises ValueError when the program
    does not run or fails its test.
    """
    emulator: list[str] = []
    if machine != this_machine():
        program, libraries = f"qemu-{machine}-static", Path(f"/usr/{machine}-linux-gnu")
        if shutil.which(program) is None:
            return f"{NOT_RUN}: there is no {program} to emulate {machine} (Debian: qemu-user-static)"
        if not (own_libraries or libraries.is_dir()):
            return f"{NOT_RUN}: there are no libraries of {machine} in {libraries} (of a cross compiler)"
        emulator = [program] if own_libraries else [program, "-L", str(libraries)]
    clean = {k: v for k, v in os.environ.items() if k not in _CLEARED}
    words = [*emulator, *command, "--self-test", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, env=clean)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        first = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise ValueError(
            f"the packed runner does not run: {first or f'it ended with status {done.returncode}'}"
        ) from None
    if not said["passed"]:
        raise ValueError(f"the packed runner fails its self-test: {said['wrong'][0]}; export the model again")
    counts = {key: said[key] for key in ("texts", "conversations", "prompts", "positions")}
    return {"passed": True, "on": f"emulated {machine}" if emulator else machine, **counts}
