"""Search scales and zero points for groups of weights.

Groups [size, M] lie in columns, so that every step runs along rows of M values. A weight is
(u - zero) scale, with 0 <= u < 2^bits; without zero points the zero is 2^(bits - 1) and the scale
may be negative: the side with one level more is whichever serves the group. With the zero between
the two levels of one bit it is (u - 1/2) 2 scale.

A weight's error counts by the weight's magnitude plus the group's mean magnitude. Counting all
alike gives smaller squares and a worse model: on SmolLM2 a fifth more KL at 3 and 4 bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# How many steps of the scale each candidate leaves beyond (negative: within) the group's extremes.
# The errors of normal and of long-tailed weights are then within 3 % of a fine search's at 2 to 5
# bits; those of the first candidate, the range's own scale, are 8 to 50 % above it.
EXTREME_STEPS = (-0.5, 0.5)
RANGE_STEPS = (-0.5, 0.5, 1.5)
# Half-quadratic quantization: the penalty and its growth are its authors'. Their power is 0.7;
# 3/4 takes two square roots instead of a logarithm.
HQQ_POWER, HQQ_PENALTY, HQQ_GROWTH, HQQ_STEPS = 0.75, 10.0, 1.01, 10

# The weights of a group whose scale would be less are zeros; errors below it are none.
SMALLEST = 2.0**-100


class Search:
    """A quantizer of many groups of one format, a few thousand at a time, in memory taken once.

    `rtn` is rounding to nearest with a few scales tried for the least squared error. `hqq` goes on
    from there (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models",
    2023): the errors to the power p < 1, which minds few large ones less, minimized by turns for
    the errors and for scale and zero point. Zero points are whole numbers here, so that mostly the
    scale moves. Two levels, -scale and +scale, have the least squared error with the mean magnitude
    (Rastegari et al., "XNOR-Net", arXiv 1603.05279, section 3.1).
    """

    def __init__(self, bits: int, zeros: str, method: str):
        """Take memory for the format; `zeros` is "none", "integer" or "between", as WeightFormat has them."""
        self.bits, self.method = bits, method
        self.two_levels = zeros == "between"
        # Of one bit, scales of either sign give all there is.
        self.has_zeros = zeros == "integer" and bits > 1
        self._trial: _Trial | None = None

    def __call__(
        self, groups: Tensor, stored: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize float32 groups [M, size]; returns u, uint8 of the same shape; scales [M], of `stored`,
        which gives those of the format that are nearest to scales [M]; zero points [M] in 0..2^bits - 1.

        A group with values that are not finite gets a scale that is not.
        """
        if self._trial is None or self._trial.groups.shape != groups.t().shape:
            self._trial = _Trial(groups.t().shape, self.bits)
        trial = self._trial
        trial.load(groups)
        if self.two_levels:
            scale, zero = _mean_magnitude(trial)
        else:
            scale, zero = _least_squared_error(trial, self.has_zeros)
        if self.method == "hqq":
            scale, zero = _half_quadratic(trial, scale, zero, self.has_zeros)
        scale = stored(scale / 2 if self.two_levels else scale)
        u = torch.empty(groups.shape, dtype=torch.uint8)
        u.copy_(trial.nearest(2 * scale if self.two_levels else scale, zero).t())
        return u, scale, zero


def to_half_precision(values: Tensor) -> Tensor:
    """Round `values` to the 11 significant bits of a float16, of any exponent."""
    spread = values * (2**13 + 1)  # Veltkamp's splitting
    return spread - (spread - values)


def to_row_steps(scales: Tensor) -> Tensor:
    """Round scales [N, G] to -127..127 steps of their row: kernels/layout.h's int8 scales. The step, of 11
    significant bits, is the one that the row's largest scale needs."""
    return in_steps(scales, to_half_precision(row_steps(scales)))


def row_steps(scales: Tensor) -> Tensor:
    """Return the step of each row of scales [N, G], a 127th of its largest magnitude: [N, 1]."""
    return scales.abs().amax(1, keepdim=True) / 127


def in_steps(scales: Tensor, steps: Tensor) -> Tensor:
    """Round scales [N, G] to -127..127 of their row's step [N, 1]."""
    safe = torch.where(steps == 0, torch.ones_like(steps), steps)
    return torch.div(scales, safe).round_().clamp_(-127, 127).mul_(steps)


def stored_scales(scales: Tensor, scale_dtype: str) -> Tensor:
    """Round scales [N, G] as packing keeps them: `float16` of any exponent, or `int8` steps of a row."""
    return to_row_steps(scales) if scale_dtype == "int8" else to_half_precision(scales)


class _Trial:
    """Return what groups [size, M] become under a scale and a zero point [M]."""

    def __init__(self, shape: torch.Size, bits: int):
        self.bits, self.limit = bits, 2**bits - 1
        self.groups, self.importance = torch.empty(shape), torch.empty(shape)
        self._exact, self._nearest = torch.empty(shape), torch.empty(shape)

    def load(self, groups: Tensor) -> None:
        """Take groups [M, size]."""
        self.groups.copy_(groups.t())
        torch.abs(self.groups, out=self.importance)
        self.importance.add_(self.importance.mean(0))

    def nearest(self, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the nearest u, as floats [size, M], valid until the next call of any method; any u where the
        scale is 0."""
        inverse = torch.where(scale == 0, scale, scale.reciprocal())
        torch.addcmul(zero, self.groups, inverse, out=self._exact)
        return torch.round(self._exact, out=self._nearest).clamp_(0, self.limit)

    def errors(self, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the groups less what they become [size, M], in units of the scale; valid until the next call
        of any method."""
        return torch.sub(self._exact, self.nearest(scale, zero), out=self._exact)

    def squared_error(self, scale: Tensor, zero: Tensor) -> Tensor:
        squares = self.errors(scale, zero).square_()
        return squares.mul_(self.importance).sum(0).mul_(scale * scale)

    def least_squares(self, scale: Tensor, zero: Tensor, target: Tensor) -> Tensor:
        """Return the scale [M] that brings these levels nearest to `target` [size, M]."""
        levels = self.nearest(scale, zero).sub_(zero)
        weighted = torch.mul(levels, self.importance, out=self._exact)
        squares = levels.mul_(weighted).sum(0)
        product = weighted.mul_(target).sum(0)
        return to_half_precision(torch.where(squares > 0, product / squares, scale))


def _mean_magnitude(trial: _Trial) -> tuple[Tensor, Tensor]:
    """Return scales and zero points [M] of the levels at minus and plus each group's mean magnitude."""
    mean = trial.groups.abs().mean(0)
    return to_half_precision(2 * mean), torch.full_like(mean, 0.5)


def _least_squared_error(trial: _Trial, has_zeros: bool) -> tuple[Tensor, Tensor]:
    scales, zeros = (_spread_ranges if has_zeros else _spread_extremes)(trial.groups, trial.bits)
    scales = to_half_precision(scales)
    scale, zero = scales[0], zeros[0]
    error = trial.squared_error(scale, zero)
    for other_scale, other_zero in zip(scales[1:], zeros[1:], strict=True):
        other_error = trial.squared_error(other_scale, other_zero)
        better = other_error < error
        scale = torch.where(better, other_scale, scale)
        zero = torch.where(better, other_zero, zero)
        error = torch.minimum(other_error, error)
    other_scale = trial.least_squares(scale, zero, trial.groups)
    better = trial.squared_error(other_scale, zero) < error
    return torch.where(better, other_scale, scale), zero


def _spread_extremes(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scales [C, M] of both signs that put each group's largest magnitude near its last level."""
    highest, lowest, middle = groups.amax(0), groups.amin(0), 2 ** (bits - 1)
    extreme = torch.where(highest > -lowest, highest, lowest)
    extreme = torch.where(extreme.abs() < SMALLEST, SMALLEST, extreme)
    spans = [-middle, *(-middle - steps for steps in EXTREME_STEPS)]
    spans += [max(middle - 0.5 + steps, 0.5) for steps in EXTREME_STEPS]
    scales = extreme / torch.tensor(spans)[:, None]
    return scales, torch.full_like(scales, middle)


def _spread_ranges(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scales and zero points [C, M] that spread each group's range, 0 included, over the levels."""
    limit = 2**bits - 1
    highest, lowest = groups.amax(0).clamp(min=0), groups.amin(0).clamp(max=0)
    width = (highest - lowest).clamp(min=SMALLEST)
    clipped = torch.tensor((0.0, *RANGE_STEPS))[:, None]
    scales = width / (limit + clipped)
    return scales, (-lowest / scales - clipped / 2).round().clamp(0, limit)


def _half_quadratic(
    trial: _Trial, scale: Tensor, zero: Tensor, move_zeros: bool
) -> tuple[Tensor, Tensor]:
    """Improve scales and zero points by turns: errors shrunk so that few are large, then scale and zero for
    what remains."""
    best, best_norm, penalty = (scale, zero), torch.full_like(scale, torch.inf), HQQ_PENALTY
    sizes, slopes, target = (torch.empty_like(trial.groups) for _ in range(3))
    for step in range(HQQ_STEPS + 1):
        errors = trial.errors(scale, zero)
        torch.abs(errors, out=sizes).clamp_(min=SMALLEST)
        torch.sqrt(sizes, out=slopes).rsqrt_()  # sizes^(p - 1)
        norm = torch.mul(sizes, slopes, out=target).mul_(trial.importance).sum(0)
        norm.mul_(scale.abs().pow(HQQ_POWER))
        better = norm < best_norm
        best_norm = torch.where(better, norm, best_norm)
        best = tuple(torch.where(better, *pair) for pair in zip((scale, zero), best, strict=True))
        if step == HQQ_STEPS:
            break
        shrunk = slopes.mul_(-1 / penalty).add_(sizes).relu_().copysign_(errors)
        if move_zeros:
            shift = torch.sub(errors, shrunk, out=target).mul_(trial.importance).sum(0)
            zero = (zero - shift / trial.importance.sum(0)).round().clamp(0, trial.limit)
        torch.addcmul(trial.groups, shrunk, scale, value=-1, out=target)
        scale = trial.least_squares(scale, zero, target)
        penalty *= HQQ_GROWTH
    return best
