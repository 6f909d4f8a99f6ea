"""Rotary embedding (Su et al., arXiv 2104.09864): angles, tables, and the turn of pairs.

A head's first `Rope.width` elements turn in pairs, half-split as in Hugging Face or neighbours; the others
stay as they are.
"""

import math

import torch
from torch import Tensor

from exporter.model.config import Rope, RopeScaling


def rope_frequencies(rope: Rope) -> Tensor:
    """The rotation of each pair from one position to the next in radians, float32 [width / 2]; always on the
    CPU."""
    with torch.device("cpu"):
        exponents = torch.arange(0, rope.width, 2, dtype=torch.int64).float() / rope.width
        frequencies = 1.0 / (rope.theta**exponents)
        return frequencies if rope.scaling is None else scale_frequencies(frequencies, rope.scaling)


def rope_angles(rope: Rope, length: int) -> Tensor:
    """The rotation of each pair at each position, float32 [length, width / 2]; always on the CPU."""
    with torch.device("cpu"):
        return torch.outer(torch.arange(length, dtype=torch.float32), rope_frequencies(rope))


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Rope frequencies [width / 2] stretched for a longer context: linear, or Llama 3.1's by wavelength
    (Meta's llama-models, `apply_scaling`)."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = smooth.clamp(0.0, 1.0)
    return smooth * frequencies + (1 - smooth) * frequencies / scaling.factor


def head_tables(rope: Rope | None, head_dim: int, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of every element of a head, float32 [length, head_dim] each; 1 and 0 of those that do not
    turn."""
    with torch.device("cpu"):
        cos, sin = torch.ones(length, head_dim), torch.zeros(length, head_dim)
        if rope is not None:
            angles = rope_angles(rope, length)
            angles = angles.repeat_interleave(2, 1) if rope.interleaved else torch.cat((angles, angles), 1)
            cos[:, : rope.width], sin[:, : rope.width] = angles.cos(), angles.sin()
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
