"""Where published figures come from: the machine and the commit, without names and paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from scripts.bench.command_line import ROOT

TELLING_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def without_paths(text: str) -> str:
    """The report is published: folders of this machine stay out of it."""
    return re.sub(r"/(?:[^\s/:]+/)+", "", text)


def machine() -> str:
    """The CPU, what it has for the kernels, its cores and the memory; no names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    try:
        fields = cpu_fields(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        fields = {}
    model = fields.get("model name", platform.machine())
    flags = fields.get("flags", fields.get("Features", "")).split()
    telling = " ".join(flag for flag in TELLING_FLAGS if flag in flags)
    with_flags = f" ({telling})" if telling else ""
    return f"{model}{with_flags}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}"


def cpu_fields(text: str) -> dict[str, str]:
    """The first value of each field of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def commit() -> str:
    """The commit's short name, and whether tracked files differ from it."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = " with local changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
