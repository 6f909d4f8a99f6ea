"""Find again the integers and scales of weights that were quantized before, so that rounding keeps them.

Such a group's values are q · s with whole numbers q and a scale s. Whatever the groups were, one that lies
within a former one has the same s: it is the group's extreme value divided by that value's q, which is tried.
With a scale of 16 bits only what comes out equal to the last bit counts. Scales of 32 bits are tried after
that, where float32's own rounding is allowed; they are stored in 11 bits, and the integers stay. No other
weights lie so.
"""

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


def lies_on_grid(weight: Tensor | JoinedRows, bits: int, group_size: int, has_zeros: bool) -> bool:
    """Tell whether the groups of a few rows of `weight` [N, K] are whole numbers of that many bits times a
    scale."""
    columns = weight.shape[1] // group_size * group_size
    step = max(1, len(weight) // GRID_ROWS)
    groups = weight[::step][:, :columns].float().reshape(-1, group_size)
    groups = groups[groups.abs().amax(1) >= SMALLEST]
    return len(groups) > 0 and float(grid_numbers(groups, bits, has_zeros)[0].float().mean()) >= LEAST_ON_GRID


def grid_numbers(groups: Tensor, bits: int, has_zeros: bool) -> Numbers:
    """Return which groups [M, size] lie on a grid, and of these u [m, size], scales and zero points [m].

    Without zero points the zero is 2^(bits - 1).
    """
    found = torch.zeros(len(groups), dtype=torch.bool)
    u = torch.zeros(groups.shape, dtype=torch.uint8)
    scales, zeros = torch.zeros(len(groups)), torch.zeros(len(groups))
    middle, limit = 2 ** (bits - 1), 2**bits - 1
    extremes = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    probes = groups[:, :PROBED].contiguous()
    large = extremes[:, 0].abs() >= SMALLEST
    many = (groups != 0).sum(1) >= LEAST_VALUES
    for stored, equal, among in ((to_half_precision, torch.eq, large), (_whole, _nearly, large & many)):
        left = torch.nonzero(among & ~found)[:, 0]
        for q in range(limit if has_zeros else middle, 0, -1):
            if not len(left):
                break
            # Of 2^bits levels without zero points the lowest has no opposite.
            tried = stored(extremes[left] / (q if has_zeros or q < middle else -q))
            probe = probes[left]
            likely = equal(torch.round(probe / tried) * tried, probe).all(1)
            own, scale = left[likely], tried[likely]
            levels = torch.round(groups[own] / scale)
            lowest, highest = levels.amin(1), levels.amax(1)
            zero = (-lowest).clamp_(min=0) if has_zeros else torch.full_like(lowest, middle)
            within = (lowest + zero >= 0) & (highest + zero <= limit)
            fits = within & equal(levels * scale, groups[own]).all(1)
            own = own[fits]
            found[own] = True
            u[own] = (levels + zero[:, None])[fits].to(torch.uint8)
            scales[own], zeros[own] = to_half_precision(scale[fits, 0]), zero[fits]
            left = left[~found[left]]
    return found, u[found], scales[found], zeros[found]


def _whole(scales: Tensor) -> Tensor:
    return scales


def _nearly(found: Tensor, values: Tensor) -> Tensor:
    return (found - values).abs() <= ROUNDING * values.abs()
