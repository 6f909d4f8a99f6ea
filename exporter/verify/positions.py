"""List the positions that a verification compared, for its reports."""

import math
from collections.abc import Iterator

from exporter.verify.verify import Readings

WORST = 12  # positions listed


def positions(readings: Readings) -> Iterator[dict]:
    """Yield every position: the prompt, the token read, the one predicted, KL and both choices."""
    found, at = readings.positions, 0
    for number, prompt in enumerate(readings.prompts):
        for i, piece in enumerate(prompt.pieces):
            following = prompt.pieces[i + 1] if i + 1 < len(prompt.pieces) else None
            yield {
                "prompt": number,
                "token": prompt.ids[i],
                "text": piece,
                "next": following,
                "kl": finite(found.kl[at]),
                "cosine": finite(found.cosine[at]),
                "float_choice": int(found.expected[at]),
                "float_text": readings.choices[int(found.expected[at])],
                "artifact_choice": int(found.actual[at]),
                "artifact_text": readings.choices[int(found.actual[at])],
            }
            at += 1


def worst_positions(readings: Readings) -> list[dict]:
    """List the WORST positions by KL, those without one first."""
    listed = [{**p, "at": i} for i, p in enumerate(positions(readings))]
    return sorted(listed, key=lambda p: -(math.inf if p["kl"] is None else p["kl"]))[:WORST]


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None for one that is not finite."""
    return float(value) if math.isfinite(value) else None
