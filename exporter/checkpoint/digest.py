"""Compute the digests of files by which artifacts name what they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from exporter.util.progress import Report

HASH_CHUNK = 1 << 24


def sha256_of_files(files: Iterable[Path], report: Report) -> str:
    """Return the SHA-256, in hex, of the files' bytes, one file after another in name order; `report` takes
    a line for each part of them.

    For a single file it is what `sha256sum` prints.
    """
    files = sorted(files)
    total = sum(path.stat().st_size for path in files)
    done = 0
    hasher = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(HASH_CHUNK):
                hasher.update(chunk)
                done += len(chunk)
                report(f"hashing the checkpoint: {done / 1e9:.1f} of {total / 1e9:.1f} GB")
    return hasher.hexdigest()
