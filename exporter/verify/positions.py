"""The positions that a verification compared, as its reports list them."""

import math
from collections.abc import Iterator

from exporter.verify.verify import Verification

WORST = 12  # positions listed


def positions(result: Verification) -> Iterator[dict]:
    """Of every position: the prompt, the token read, the one predicted, KL and both choices."""
    found, at = result.positions, 0
    for number, prompt in enumerate(result.prompts):
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
                "float_text": result.choices[int(found.expected[at])],
                "artifact_choice": int(found.actual[at]),
                "artifact_text": result.choices[int(found.actual[at])],
            }
            at += 1


def worst_positions(result: Verification) -> list[dict]:
    """The WORST positions by KL, those without one first."""
    listed = [{**p, "at": i} for i, p in enumerate(positions(result))]
    return sorted(listed, key=lambda p: -(math.inf if p["kl"] is None else p["kl"]))[:WORST]


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
