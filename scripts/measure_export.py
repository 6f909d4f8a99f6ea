#!/usr/bin/env python3
"""Measures an export: seconds and memory by stage, and CPU time.

    .venv/bin/python scripts/measure_export.py MODEL --output-pte FILE ...

The arguments are `python -m exporter`'s. Anonymous memory (RssAnon of /proc/PID/status: what is neither a
file's nor shared) of the export and of the compilers that it starts is added up twenty times a second; mapped
files are counted apart, since the system takes their pages back when it needs them.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.bench.command_line import UsageError, exit_status  # noqa: E402

SECONDS = 0.05  # between two looks


@dataclass
class Stage:
    """A stage of the export by its title, and the most that it held, in bytes."""

    title: str
    begun: float
    anonymous: int = 0
    files: int = 0


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if not arguments:
        raise UsageError("give what to export, as `python -m exporter` takes it")
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", *arguments], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    stages = [Stage("start", time.monotonic())]
    reader = threading.Thread(target=_read_stages, args=(process.stderr, stages))
    reader.start()
    while process.poll() is None:
        anonymous, files = _memory(process.pid)
        stage = stages[-1]
        stage.anonymous, stage.files = max(stage.anonymous, anonymous), max(stage.files, files)
        time.sleep(SECONDS)
    reader.join()
    print(table(stages, time.monotonic()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{used.ru_utime:.0f} s of CPU time, and {used.ru_stime:.0f} s of the system's")
    return process.returncode


def table(stages: list[Stage], end: float) -> str:
    """Returns the stages, and the whole of them, as Markdown."""
    lines = ["| stage | seconds | anonymous, GB | mapped files, GB |", "|---|---|---|---|"]
    ends = [stage.begun for stage in stages[1:]] + [end]
    peaks = max(stage.anonymous for stage in stages), max(stage.files for stage in stages)
    whole = Stage("**whole**", stages[0].begun, *peaks)
    for stage, until in zip([*stages, whole], [*ends, end], strict=True):
        seconds, gigabytes = until - stage.begun, (stage.anonymous / 1e9, stage.files / 1e9)
        lines.append(f"| {stage.title} | {seconds:.1f} | {gigabytes[0]:.2f} | {gigabytes[1]:.2f} |")
    return "\n".join(lines)


def _read_stages(stderr, stages: list[Stage]) -> None:
    """Passes the export's lines on; one that ends in " ..." begins a stage."""
    for line in stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if line.endswith(" ...\n") and not line.startswith(" "):
            stages.append(Stage(line.removesuffix(" ...\n"), time.monotonic()))


def _memory(root: int) -> tuple[int, int]:
    """Returns the bytes of anonymous memory and of mapped files of a process and all below it."""
    anonymous = files = 0
    for pid in _family(root):
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:  # ended meanwhile
            continue
        fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
        anonymous += _bytes(fields.get("RssAnon", "0 kB"))
        files += _bytes(fields.get("RssFile", "0 kB")) + _bytes(fields.get("RssShmem", "0 kB"))
    return anonymous, files


def _bytes(field: str) -> int:
    return 1024 * int(field.split()[0])


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                found += _family(int(child))
    except OSError:  # ended meanwhile, or a kernel that does not tell
        pass
    return found


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
