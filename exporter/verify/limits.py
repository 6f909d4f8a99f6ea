"""Say how much an artifact may differ from its float model: one table, by bits a linear weight.

Measured with `verify`'s own prompts (382 positions) on SmolLM2-135M as it comes and on a copy off
the 4-bit grid that it is stored on (its residual stream rotated), the worse of both: `q2` to `q8`;
by token, `linear:a8wxdq` and at 4 bits `linear:a8w4dq`, in groups of 32; at 16 bits bfloat16
throughout, as stock kernels compute; at 32 the least that different orders of sums are given.

An artifact may have FACTOR times the measured mean KL, and fall short of full agreement and cosine
by FACTOR times as much, but no more than LARGEST_KL: beyond it the text is no longer the model's,
whatever the bits. 2 bits a weight rounded to nearest are beyond it for so small a model. Larger
models lose less to the same bits. Between two rows bits are interpolated, the logarithm of the KL.
Agreement is a share of few positions: of so many as were read, 3 standard errors are taken off.
"""

import math
from dataclasses import dataclass, replace

FACTOR = 1.5  # times what was measured
LARGEST_KL = 5.0
STANDARD_ERRORS = 3

# Bits -> mean KL in nats, top-1 agreement, mean cosine of the logits, of SmolLM2-135M by `q2` to `q8` on the
# 382 positions of chat/texts.py: the worse of the model as it comes and of a copy off its grid.
MEASURED = {
    2: (10.3, 0.005, 0.207),
    3: (3.56, 0.204, 0.600),
    4: (0.655, 0.594, 0.889),
    5: (0.165, 0.759, 0.969),
    6: (0.040, 0.885, 0.9927),
    8: (0.0059, 0.953, 0.9990),
    16: (0.0024, 0.974, 0.9997),
    32: (1e-6, 0.999, 0.999999),
}
# Of `linear:a8wxdq`, at 4 bits `linear:a8w4dq`, measured as above: activations have a scale a token, which
# costs more than 8 bits of weights do.
MEASURED_BY_TOKEN = MEASURED | {
    3: (4.41, 0.139, 0.532),
    4: (1.04, 0.461, 0.843),
    5: (0.204, 0.772, 0.966),
    6: (0.060, 0.869, 0.9899),
    8: (0.034, 0.895, 0.9947),
}


@dataclass(frozen=True)
class Limits:
    """Limits of a comparison: mean KL in nats at the most; share of positions with the same top token, mean
    cosine of the logits, both at the least."""

    mean_kl: float
    top1: float
    cosine: float


@dataclass(frozen=True)
class GivenLimits:
    """Limits that the user sets; None: the scheme's."""

    mean_kl: float | None = None
    top1: float | None = None
    cosine: float | None = None

    def instead_of(self, limits: Limits) -> Limits:
        """Return `limits` with what is given in its place."""
        return replace(limits, **{name: value for name, value in vars(self).items() if value is not None})


def limits_for(bits: float, by_token: bool = False) -> Limits:
    """Return the limits of a model of so many bits a linear weight, scales not counted, the mean of its
    layers; `by_token`: its activations have a scale a token."""
    table = MEASURED_BY_TOKEN if by_token else MEASURED
    known = sorted(table)
    bits = min(max(bits, known[0]), known[-1])
    low = max(b for b in known if b <= bits)
    high = min(b for b in known if b >= bits)
    share = (bits - low) / (high - low) if high > low else 0.0
    (kl_a, *a), (kl_b, *b) = table[low], table[high]
    kl = math.exp((1 - share) * math.log(kl_a) + share * math.log(kl_b))
    top1, cosine = ((1 - share) * x + share * y for x, y in zip(a, b, strict=True))
    return Limits(min(FACTOR * kl, LARGEST_KL), _short_of_one(top1), _short_of_one(cosine))


def _short_of_one(measured: float) -> float:
    return max(0.0, 1 - FACTOR * (1 - measured))


def with_sampling_error(limits: Limits, positions: int) -> Limits:
    """Loosen `limits` for a sample of so many positions."""
    error = math.sqrt(limits.top1 * (1 - limits.top1) / max(1, positions))
    return replace(limits, top1=max(0.0, limits.top1 - STANDARD_ERRORS * error))
