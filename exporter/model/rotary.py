"""Rotary embedding (Su et al., arXiv 2104.09864): frequencies, tables, the turn of pairs; how queries grow.

A head's first `Rope.width` elements turn in pairs, half-split as in Hugging Face or neighbours; the others
stay as they are.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from exporter.model.config import QueryGrowth, Rope, RopeScaling
from exporter.model.rotation import Rotation


def rotation(rope: Rope, longest: int) -> Rotation:
    """Return the numbers of `rope`, for contexts of up to `longest` positions."""
    scaling, growth = rope.scaling, rope.query_growth
    found = Rotation(tuple(rope_frequencies(rope, 1).tolist()))
    if scaling is not None:
        found = replace(found, factor=scaling.attention_factor)
    if scaling is not None and scaling.kind == "longrope":
        short = scaling.original_context_length
        long = tuple(rope_frequencies(rope, short + 1).tolist())
        found = replace(found, short_context=short, long_frequencies=long)
    if growth is not None:
        factors = _growth_factors(growth, torch.arange(0, longest, growth.context_length))
        found = replace(found, query_factors=tuple(factors.tolist()), query_span=growth.context_length)
    return found


def query_factors(growth: QueryGrowth, length: int) -> Tensor:
    """What queries are multiplied by at each position of a context of `length`, float32 [length]; always on
    the CPU."""
    with torch.device("cpu"):
        return _growth_factors(growth, torch.arange(length))


def _growth_factors(growth: QueryGrowth, positions: Tensor) -> Tensor:
    """Their factors float32, rounded once."""
    return (1 + growth.beta * torch.log1p((positions // growth.context_length).double())).float()


def rope_frequencies(rope: Rope, context_length: int) -> Tensor:
    """The rotation of each pair from one position to the next in radians, in a context of this length,
    float32 [width / 2]; always on the CPU."""
    with torch.device("cpu"):
        exponents = torch.arange(0, rope.width, 2, dtype=torch.int64).float() / rope.width
        periods, scaling = rope.theta**exponents, rope.scaling
        if scaling is None:
            return 1.0 / periods
        if scaling.kind == "linear":
            return 1.0 / periods / scaling.factor
        if scaling.kind == "llama3":
            return _blended(1.0 / periods, scaling, _llama3_kept(1.0 / periods, scaling))
        if scaling.kind == "yarn":
            return _blended(1.0 / periods, scaling, _yarn_kept(rope, scaling))
        long = context_length > scaling.original_context_length
        return 1.0 / (torch.tensor(scaling.long_factors if long else scaling.short_factors) * periods)


def _blended(frequencies: Tensor, scaling: RopeScaling, kept: Tensor) -> Tensor:
    """`frequencies` where `kept` is 1, divided by the factor where it is 0."""
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def _llama3_kept(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """How much of each frequency Llama 3.1 keeps, by wavelength (Meta's llama-models, `apply_scaling`)."""
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return smooth.clamp(0.0, 1.0)


def _yarn_kept(rope: Rope, scaling: RopeScaling) -> Tensor:
    """How much of each frequency YaRN keeps: a ramp from the pair that makes `beta_fast` turns in the
    original context to the one that makes `beta_slow`."""

    def pair(turns: float) -> float:
        wavelength = scaling.original_context_length / turns
        return rope.width * math.log(wavelength / (2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.width - 1)
    span = last - first if last != first else 0.001
    return 1 - ((torch.arange(rope.width // 2, dtype=torch.float32) - first) / span).clamp(0.0, 1.0)


def rope_tables(rope: Rope, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of each pair at each position of a context of `length`, times the scaling's factor, float32
    [length, width / 2]; always on the CPU."""
    with torch.device("cpu"):
        angles = torch.outer(torch.arange(length, dtype=torch.float32), rope_frequencies(rope, length))
        factor = 1.0 if rope.scaling is None else rope.scaling.attention_factor
        return angles.cos() * factor, angles.sin() * factor


def head_tables(rope: Rope | None, head_dim: int, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of every element of a head, float32 [length, head_dim] each; 1 and 0 of those that do not
    turn."""
    with torch.device("cpu"):
        cos, sin = torch.ones(length, head_dim), torch.zeros(length, head_dim)
        if rope is not None:
            for table, of_pairs in zip((cos, sin), rope_tables(rope, length), strict=True):
                table[:, : rope.width] = (
                    of_pairs.repeat_interleave(2, 1) if rope.interleaved else of_pairs.repeat(1, 2)
                )
        return cos, sin


def quarter_turn(rope: Rope | None, head_dim: int) -> Tensor:
    """The float32 matrix [head_dim, head_dim] that turns pairs by 90 degrees: (a, b) to (-b, a)."""
    with torch.device("cpu"):
        turn = torch.zeros(head_dim, head_dim)
        if rope is None:
            return turn
        pairs = torch.arange(rope.width // 2)
        first = 2 * pairs if rope.interleaved else pairs
        second = first + (1 if rope.interleaved else rope.width // 2)
        turn[first, second], turn[second, first] = -1.0, 1.0
        return turn
