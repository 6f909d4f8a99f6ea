"""Llama 3.1's scaling as GGUF files hold it: the divisors of rotary frequencies, one a pair."""

from __future__ import annotations

import math
from collections.abc import Sequence

from exporter.model.config import Rope, RopeScaling


def llama3_divisors(rope: Rope) -> list[float]:
    """The `width / 2` numbers by which Llama 3.1's scaling divides the rotary frequencies.

    Its formula (`apply_scaling` in Meta's llama-models) as llama.cpp's converter stores it.
    """
    scaling, divisors = rope.scaling, []
    for pair in range(rope.width // 2):
        wavelength = 2 * math.pi * rope.theta ** (2 * pair / rope.width)
        turns = scaling.original_context_length / wavelength
        span = scaling.high_freq_factor - scaling.low_freq_factor
        kept = min(max((turns - scaling.low_freq_factor) / span, 0.0), 1.0)
        divisors.append(1.0 / ((1.0 - kept) / scaling.factor + kept))
    return divisors


def fit_llama3(factors: Sequence[float], width: int, theta: float, context: int) -> RopeScaling:
    """Find the scaling that `factors` came from.

    Its `factor` is the largest of them; the original context is a power of two below the present
    one; low 1 and high 4 are the same in all Llama 3 models. Whatever gives these numbers is right.
    Raises ValueError where nothing does.
    """
    if len(factors) == width // 2 and max(factors) > 1.0:
        original = 1
        while original <= context:
            scaling = RopeScaling("llama3", max(factors), original_context_length=original)
            expected = llama3_divisors(Rope(theta, width, scaling))
            pairs = zip(factors, expected, strict=True)
            if all(math.isclose(a, b, rel_tol=1e-4) for a, b in pairs):
                return scaling
            original *= 2
    raise ValueError(
        "the tensor rope_freqs.weight does not hold Llama 3 rope scaling, the only kind known: "
        "use the Hugging Face form of this checkpoint"
    )
