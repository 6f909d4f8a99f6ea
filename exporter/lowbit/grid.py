"""Find again the integers and scales of weights that were quantized before, so that rounding keeps them.

Such a group's values are q · s with whole numbers q and a scale s. Whatever the groups were, one that lies
within a former one has the same s: it is the group's extreme value divided by that value's q, which is tried.
With scales of 16 bits only what comes out equal to the last bit counts. With those of 32 bits float32's own
rounding is allowed; they are stored in 11 bits, and the integers stay. No other weights lie so.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.lowbit.joined_rows import JoinedRows
from exporter.lowbit.search import SMALLEST, to_half_precision

GRID_ROWS, LEAST_ON_GRID = 8, 0.9
PROBED = 4  # values of a group that are tried first
# With a scale of 32 bits: what q · s, s found from a rounded value and their product are off, half a last bit
# (2^-24) or a whole one each; and how many values of a group must not be 0, since few lie on many grids.
ROUNDING, LEAST_VALUES = 2.0**-22, 8
Numbers = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class GridScales:
    """The scales of a grid: what a quotient of a value and a whole number becomes as one of them, when whole
    numbers times it are the weights, and how many values of a group must not be 0."""

    stored: Callable[[Tensor], Tensor]
    equal: Callable[[Tensor, Tensor], Tensor]
    least_values: int


def grid_scales(
    weight: Tensor | JoinedRows, bits: int, group_size: int, has_zeros: bool
) -> GridScales | None:
    """Return which scales the groups of a few rows of `weight` [N, K] have, times whole numbers of that many
    bits; None where most are no such products."""
    columns = weight.shape[1] // group_size * group_size
    step = max(1, len(weight) // GRID_ROWS)
    groups = weight[::step][:, :columns].float().reshape(-1, group_size)
    groups = groups[groups.abs().amax(1) >= SMALLEST]
    if not len(groups):
        return None
    for scales in (OF_16_BITS, OF_32_BITS):
        found, *_ = grid_numbers(groups, bits, has_zeros, scales)
        if float(found.float().mean()) >= LEAST_ON_GRID:
            return scales
    return None


def grid_numbers(groups: Tensor, bits: int, has_zeros: bool, scales: GridScales) -> Numbers:
    """Return which groups [M, size] lie on a grid of such scales, and of these u [m, size], scales and zero
    points [m].

    Without zero points the zero is 2^(bits - 1).
    """
    found = torch.zeros(len(groups), dtype=torch.bool)
    u = torch.zeros(groups.shape, dtype=torch.uint8)
    factors, zeros = torch.zeros(len(groups)), torch.zeros(len(groups))
    middle, limit = 2 ** (bits - 1), 2**bits - 1
    extremes = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    probes = groups[:, :PROBED].contiguous()
    among = (extremes[:, 0].abs() >= SMALLEST) & ((groups != 0).sum(1) >= scales.least_values)
    left = torch.nonzero(among)[:, 0]
    for q in range(limit if has_zeros else middle, 0, -1):
        if not len(left):
            break
        # Of 2^bits levels without zero points the lowest has no opposite.
        tried = scales.stored(extremes[left] / (q if has_zeros or q < middle else -q))
        probe = probes[left]
        likely = scales.equal(torch.round(probe / tried) * tried, probe).all(1)
        own, factor = left[likely], tried[likely]
        if not len(own):
            continue
        levels = torch.round(groups[own] / factor)
        lowest, highest = levels.amin(1), levels.amax(1)
        zero = (-lowest).clamp_(min=0) if has_zeros else torch.full_like(lowest, middle)
        within = (lowest + zero >= 0) & (highest + zero <= limit)
        fits = within & scales.equal(levels * factor, groups[own]).all(1)
        own = own[fits]
        found[own] = True
        u[own] = (levels + zero[:, None])[fits].to(torch.uint8)
        factors[own], zeros[own] = to_half_precision(factor[fits, 0]), zero[fits]
        left = left[~found[left]]
    return found, u[found], factors[found], zeros[found]


def _whole(scales: Tensor) -> Tensor:
    return scales


def _nearly(found: Tensor, values: Tensor) -> Tensor:
    return (found - values).abs() <= ROUNDING * values.abs()


OF_16_BITS = GridScales(to_half_precision, torch.eq, 1)
OF_32_BITS = GridScales(_whole, _nearly, LEAST_VALUES)
