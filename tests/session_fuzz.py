"""Runs `session_fuzz` (tests/cpp/backends/session_fuzz.cpp): sessions in any sequence of what they can do."""

import os
import subprocess
from pathlib import Path

from native import ROOT

TOOLS = {".pte": "session_fuzz_et", ".pt2": "session_fuzz_aoti"}
CACHE_TYPES = ("float32", "float16", "int8", "int4")


def isas(build: Path) -> list[str]:
    """The instruction sets that can be forced on this CPU."""
    tool = next(path for name in TOOLS.values() if (path := build / "tests" / name).is_file())
    return subprocess.run([tool, "--isas"], capture_output=True, text=True, check=True).stdout.split()


def fuzz(
    artifact: Path, sequences: int, seed: int = 1, isa: str = "", cache_type: str = "",
    build: Path = ROOT / "cmake-out", timeout: float = 3000,
) -> str:  # fmt: skip
    """Run `sequences` of them; returns what was done. Raises AssertionError with the tool's words when a
    session does not say what it would alone."""
    tool = build / "tests" / TOOLS[artifact.suffix]
    assert tool.is_file(), f"{tool} is not built; run scripts/test.sh"
    words = [tool, artifact, str(sequences), str(seed)]
    done = subprocess.run(
        words + (["--cache-dtype", cache_type] if cache_type else []), capture_output=True, text=True,
        timeout=timeout, env={**os.environ, "LOWBIT_ISA": isa},
    )  # fmt: skip
    assert done.returncode == 0, f"{artifact} {isa} {cache_type}: {done.stderr[-3000:]}"
    return done.stdout
