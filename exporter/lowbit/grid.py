"""Find again the integers and scales of weights that were quantized before, so that rounding keeps them.

Such a group's values are q · s with whole numbers q and a scale s of 16 bits. Whatever the groups were, one
that lies within a former one has the same s: it is the group's extreme value divided by that value's q, which
is tried. Only what comes out equal to the last bit counts, which no other weights do.
"""

import torch
from torch import Tensor

from exporter.lowbit.search import SMALLEST, to_half_precision

GRID_ROWS, LEAST_ON_GRID = 8, 0.9
PROBED = 4  # values of a group that are tried first
Numbers = tuple[Tensor, Tensor, Tensor, Tensor]


def lies_on_grid(weight: Tensor, bits: int, group_size: int, has_zeros: bool) -> bool:
    """Tell whether the groups of a few rows of `weight` [N, K] are whole numbers of that many bits times a
    scale."""
    columns = weight.shape[1] // group_size * group_size
    step = max(1, len(weight) // GRID_ROWS)
    groups = weight[::step, :columns].float().reshape(-1, group_size)
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
    left = torch.nonzero(extremes[:, 0].abs() >= SMALLEST)[:, 0]
    for q in range(limit if has_zeros else middle, 0, -1):
        # Of 2^bits levels without zero points the lowest has no opposite.
        tried = to_half_precision(extremes[left] / (q if has_zeros or q < middle else -q))
        probe = probes[left]
        likely = (torch.round(probe / tried) * tried == probe).all(1)
        own, scale = left[likely], tried[likely]
        levels = torch.round(groups[own] / scale)
        lowest, highest = levels.amin(1), levels.amax(1)
        zero = (-lowest).clamp_(min=0) if has_zeros else torch.full_like(lowest, middle)
        fits = (levels * scale == groups[own]).all(1) & (lowest + zero >= 0) & (highest + zero <= limit)
        own = own[fits]
        found[own] = True
        u[own] = (levels + zero[:, None])[fits].to(torch.uint8)
        scales[own], zeros[own] = scale[fits, 0], zero[fits]
        left = left[~found[left]]
        if not len(left):
            break
    return found, u[found], scales[found], zeros[found]
