"""`pack` ended again and again while it runs. PACK_POINTS says how often, where CI's number is too few."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from native import ROOT


def end_packs(arguments: list[object], whole: Path, folder: Path, points: int) -> None:
    """End `pack ARGUMENTS` at `points` times, by SIGTERM and SIGKILL in turn: at the final name lies what
    `whole` is, or nothing, and a SIGTERM leaves nothing else either."""
    points = int(os.environ.get("PACK_POINTS", points))
    words = [sys.executable, "-m", "exporter", "pack", *arguments, "--no-verify", "-o"]
    start = time.monotonic()
    subprocess.run([*words, folder / f"timed-{whole.name}"], cwd=ROOT, check=True, capture_output=True)
    lasts = time.monotonic() - start
    for i in range(points):
        out = folder / f"{i}" / whole.name
        out.parent.mkdir()
        running = subprocess.Popen([*words, out], cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(lasts * (i + 1) / (points + 2))
        running.send_signal(signal.SIGKILL if i % 2 else signal.SIGTERM)
        running.wait()
        if out.exists():
            assert out.read_bytes() == whole.read_bytes()
        elif not i % 2 and running.returncode > 0:
            assert not list(out.parent.iterdir())
