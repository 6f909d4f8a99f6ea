"""Find integers and scales that keep a linear layer's outputs, given the second moment of its inputs.

For inputs x the error of a layer is tr((W - Q) H (W - Q)^T) with H = E[x x^T]. Three steps lower it:

1. GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one after another, each one's error
   moved to those that are not yet rounded, by the Cholesky factor of H^-1; columns with the largest
   inputs first, groups as they lie in memory ("act order" with static groups).
2. Scales by least squares for the integers found: one small system a row.
3. Coordinate descent over the integers (QuantEase, arXiv 2309.01885): each one set to the best level
   with all others as they are.

Steps 2 and 3 alternate; neither can raise the error before scales are rounded to what is stored.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.lowbit.search import SMALLEST, stored_scales
from exporter.lowbit.weights import NOT_FINITE, QuantizedWeight, WeightFormat, rounded

COLUMNS_AT_ONCE = 32  # columns whose errors are moved on together
ROWS_AT_ONCE = 4096  # less where their systems of equations for the scales take more than
SYSTEMS_BYTES = 2**28


@dataclass(frozen=True)
class GptqOptions:
    """The options of GPTQ: `damping` is what is added to H's diagonal, of its mean; `rounds` are those of
    steps 2 and 3."""

    damping: float = 0.01
    act_order: bool = True
    rounds: int = 4


class SingularHessian(ValueError):
    """The inputs' second moment has no Cholesky factor."""


def gptq(
    weight: Tensor, hessian: Tensor, form: WeightFormat, options: GptqOptions = GptqOptions()
) -> QuantizedWeight:
    """Quantize `weight` float32 [N, K] in `form` for inputs of second moment `hessian` float32 [K, K].

    Zeros are none, integer or between. Rows are independent; up to ROWS_AT_ONCE are worked on together, in
    torch's own threads: a step over one column is so short that threads of ours would wait for Python's lock.
    Raises SingularHessian when the second moment has values that are not finite, and ValueError when
    the weight has.
    """
    broken = torch.nonzero(~weight.isfinite().all(1))
    if len(broken):
        raise ValueError(
            f"the weight's row {int(broken[0])} has values that are not finite: {NOT_FINITE}"
        )
    N, K = weight.shape
    padded = -(-K // form.group_size) * form.group_size
    H = _damped(hessian, options.damping, padded)
    order, factor = _factor(H, options.act_order)
    values = torch.empty(N, K, dtype=torch.uint8)
    scales, zeros = (torch.empty(N, padded // form.group_size) for _ in range(2))

    step = max(1, min(ROWS_AT_ONCE, SYSTEMS_BYTES // (4 * scales.shape[1] ** 2)))
    parts = [
        (slice(start, min(start + step, whole.stop)), own)
        for whole, own in form.parts(N)
        for start in range(whole.start, whole.stop, step)
    ]
    with torch.no_grad():
        for rows, own in parts:
            W = F.pad(weight[rows], (0, padded - K))
            u, grid = _rows(W, K, H, order, factor, own, options)
            values[rows] = u[:K].t().to(torch.uint8)
            scales[rows], zeros[rows] = grid.scales.t(), grid.zeros.t()
    return rounded(QuantizedWeight(form, values, scales, zeros if form.stores_zeros else None))


def _damped(hessian: Tensor, damping: float, padded: int) -> Tensor:
    K = hessian.shape[0]
    mean = hessian.diagonal().mean()
    if not torch.isfinite(mean):
        raise SingularHessian(f"a layer's inputs have values that are not finite: {NOT_FINITE}")
    H = torch.zeros(padded, padded)
    H[:K, :K] = hessian
    # Columns that are never used, padding among them, cost nothing; they only must not be singular.
    H.diagonal().add_(torch.clamp(damping * mean, min=1e-12))
    return H


def _factor(H: Tensor, act_order: bool) -> tuple[Tensor, Tensor]:
    """Return the columns' order, and the upper Cholesky factor of the inverse in that order, each row over
    its diagonal element: what an error of 1 in a column takes from those after it."""
    K = H.shape[0]
    order = torch.argsort(H.diagonal(), descending=True) if act_order else torch.arange(K)
    inverse = torch.cholesky_inverse(cholesky(H[order][:, order].double()))
    factor = cholesky(inverse).t().float()
    return order, factor / factor.diagonal()[:, None]


def cholesky(H: Tensor) -> Tensor:
    """Return the lower Cholesky factor. Raises SingularHessian where there is none."""
    factor, failed = torch.linalg.cholesky_ex(H)
    if failed:
        raise SingularHessian(
            "a layer's inputs have a second moment that is not positive definite: give more text "
            "(--calibration-tokens)"
        )
    return factor


def _rows(
    W: Tensor, K: int, H: Tensor, order: Tensor, factor: Tensor, form: WeightFormat,
    options: GptqOptions,
) -> tuple[Tensor, "_Grid"]:  # fmt: skip
    """Quantize n rows [n, P], of which K columns are the weight's; returns the integers u [P, n] and their
    grid."""
    importance = H.diagonal().clone()
    importance[K:] = 0
    scales, zeros = search_scales(W, importance, form)
    grid = _Grid(scales.t().contiguous(), zeros.t().contiguous(), form)
    columns = W.t().contiguous()
    levels = _gptq(columns, order, factor, grid)
    HW = H @ columns
    for _ in range(options.rounds):
        levels[K:] = 0
        refitted = stored_scales(_refit(HW, H, levels, grid), form.scale_dtype)
        grid.scales = refitted.t().contiguous()
        levels = _descend(HW, H, levels, grid)
    return grid.integers(levels), grid


class _Grid:
    """The levels of n rows, integers u less zeros, or -1 and +1 where the zero is between: scales and
    zeros [G, n], of groups of `size` columns.

    Everything here lies by columns, [K, n]: a step takes one column of all rows.
    """

    def __init__(self, scales: Tensor, zeros: Tensor, form: WeightFormat):
        self.scales, self.zeros = scales, zeros
        self.size, self.limit = form.group_size, 2**form.bits - 1
        self.signs = torch.ones(scales.shape[1]) if form.zeros == "between" else None

    def groups(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return of each group scales, their inverses, the lowest level and the highest, [n] each.

        A scale of next to nothing has a finite inverse, and one of 0, too: what is moved into a group of
        zeros then has levels for which `_refit` finds the scale.
        """
        inverses = torch.where(self.scales.abs() < SMALLEST, SMALLEST, self.scales).reciprocal_()
        parts = (self.scales, inverses, -self.zeros, self.limit - self.zeros)
        return list(zip(*(part.unbind() for part in parts), strict=True))

    def round_(self, exact: Tensor, lowest: Tensor, highest: Tensor) -> None:
        """Round each of `exact` [n] to the level next to it, in its place."""
        if self.signs is None:
            exact.round_().clamp_(lowest, highest)
        else:
            torch.copysign(self.signs, exact, out=exact)

    def integers(self, levels: Tensor) -> Tensor:
        """Turn levels [K, n], which are given up, into u."""
        if self.signs is None:
            return levels.add_(self.over_columns(self.zeros))
        return levels.clamp_(min=0)

    def over_columns(self, values: Tensor) -> Tensor:
        """Spread values [G, n] of groups over columns, [K, n]."""
        return values.repeat_interleave(self.size, 0)


def search_scales(W: Tensor, importance: Tensor, form: WeightFormat) -> tuple[Tensor, Tensor]:
    """Search scales, as `form` stores them, and zeros [N, G] with the least error weighted by columns.

    `W` float32 [N, K], K a multiple of the group size; `importance` float32 [K].
    """
    N, K = W.shape
    size, limit = form.group_size, 2**form.bits - 1
    groups = W.view(N, K // size, size)
    weights = importance.view(1, K // size, size)
    if form.zeros == "between":
        scale = (groups.abs() * weights).sum(-1) / weights.sum(-1).clamp(min=SMALLEST)
        return stored_scales(scale, form.scale_dtype), torch.zeros_like(scale)
    has_zeros = form.zeros == "integer" and form.bits > 1
    best = None
    for scale, zero in _candidates(groups, form.bits, has_zeros):
        safe = torch.where(scale == 0, torch.ones_like(scale), scale)
        u = torch.round(groups / safe[..., None] + zero[..., None]).clamp_(0, limit)
        difference = (u - zero[..., None]) * scale[..., None] - groups
        error = (difference.square_() * weights).sum(-1)
        if best is None:
            best = [scale, zero, error]
            continue
        better = error < best[2]
        best = [torch.where(better, *pair) for pair in zip((scale, zero, error), best, strict=True)]
    return stored_scales(best[0], form.scale_dtype), best[1]


def _candidates(groups: Tensor, bits: int, has_zeros: bool):
    """Yield scales and zeros [N, G] to try: the groups' ranges shrunk by steps."""
    limit, middle = 2**bits - 1, 2 ** (bits - 1)
    shrinks = torch.linspace(1.0, 0.5 if bits <= 4 else 0.8, 13 if bits <= 4 else 7).tolist()
    if has_zeros:
        highest, lowest = groups.amax(-1).clamp(min=0), groups.amin(-1).clamp(max=0)
        for shrink in shrinks:
            scale = (highest - lowest) * shrink / limit
            safe = torch.where(scale == 0, torch.ones_like(scale), scale)
            exact = -lowest * shrink / safe
            for zero in (exact.floor(), exact.ceil()) if bits <= 3 else (exact.round(),):
                yield scale, zero.clamp(0, limit)
        return
    highest, lowest = groups.amax(-1), groups.amin(-1)
    extreme = torch.where(highest > -lowest, highest, lowest)
    zero = torch.full_like(extreme, middle)
    for shrink in shrinks:
        yield extreme * shrink / -middle, zero
        yield extreme * shrink / max(middle - 0.5, 0.5), zero


def _gptq(W: Tensor, order: Tensor, factor: Tensor, grid: _Grid) -> Tensor:
    """Round the weights [K, n] to levels [K, n], column after column."""
    W, K = W[order], len(W)
    levels, groups = torch.empty_like(W), grid.groups()
    of_column = (order // grid.size).tolist()
    for start in range(0, K, COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, K)
        errors, found = torch.empty_like(W[start:end]), levels[start:end].unbind()
        before = factor[start:end, start:end].t().contiguous()
        for j, value in enumerate(W[start:end].unbind()):
            scale, inverse, lowest, highest = groups[of_column[start + j]]
            value.addmv_(errors[:j].t(), before[j, :j], alpha=-1)
            grid.round_(torch.mul(value, inverse, out=found[j]), lowest, highest)
            torch.addcmul(value, found[j], scale, value=-1, out=errors[j])
        W[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(K)
    return levels[back]


def _refit(HW: Tensor, H: Tensor, levels: Tensor, grid: _Grid) -> Tensor:
    """Return the scales [n, G] of least error for the levels [K, n]; `HW` [K, n] is H times the weights."""
    K, n = levels.shape
    size, G = grid.size, K // grid.size
    A = torch.empty(n, G, G)
    for g in range(G):  # row and column g of all systems, from the diagonal on
        own, rest = slice(g * size, (g + 1) * size), slice(g * size, None)
        products = (H[rest, own] @ levels[own]).mul_(levels[rest])
        A[:, g, g:] = A[:, g:, g] = products.view(G - g, size, n).sum(1).t()
    b = (HW * levels).view(G, size, n).sum(1).t()
    diagonal = A.diagonal(dim1=1, dim2=2)
    used = diagonal > 0
    diagonal.add_(torch.where(used, 1e-6 * diagonal, torch.ones_like(diagonal)))
    scales, failed = torch.linalg.solve_ex(A, b)
    good = used & scales.isfinite() & (failed == 0)[:, None]
    return torch.where(good, scales, grid.scales.t())


def _descend(HW: Tensor, H: Tensor, levels: Tensor, grid: _Grid) -> Tensor:
    """Set each column's level to the best one, the others being as they are, in one sweep over the
    columns."""
    Q = grid.over_columns(grid.scales).mul_(levels)
    R = torch.addmm(HW, H, Q, alpha=-1)
    levels, K, groups = torch.empty_like(levels), len(levels), grid.groups()
    for start in range(0, K, COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, K)
        around, was = H[start:end, start:end], Q[start:end]
        pivots = around.diagonal()[:, None]
        before = around.tril(-1) / pivots
        # Each column's best value but for what the new values of the columns before it take from it.
        best = (R[start:end] / pivots + was).addmm_(before, was)
        new, found = torch.empty_like(best), levels[start:end].unbind()
        for j, value in enumerate(best.unbind()):
            scale, inverse, lowest, highest = groups[(start + j) // grid.size]
            value.addmv_(new[:j].t(), before[j, :j], alpha=-1)
            grid.round_(torch.mul(value, inverse, out=found[j]), lowest, highest)
            torch.mul(found[j], scale, out=new[j])
        R[end:].addmm_(H[end:, start:end], new - was, alpha=-1)
    return levels
