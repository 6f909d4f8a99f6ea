"""Say which adapter is meant, as a flag names it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AdapterSource:
    """An adapter's folder or hub id, and by what its low-rank part is multiplied."""

    place: str
    scale: float = 1.0


def parse_adapter(text: str) -> AdapterSource:
    """Read FOLDER or FOLDER=SCALE. Raises ValueError for a scale that is no number, or 0."""
    place, equals, scale = text.rpartition("=")
    if not equals or Path(text).exists():
        return AdapterSource(text)
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not place or not math.isfinite(value) or value == 0:
        raise ValueError(f"{text!r}: {scale!r} is no scale; give FOLDER, or FOLDER=SCALE with a number not 0")
    return AdapterSource(place, value)
