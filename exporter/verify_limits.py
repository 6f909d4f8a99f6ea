"""What an artifact may differ from its float model by: one table, by bits a linear weight.

Measured with `verify`'s own prompts (382 positions) on SmolLM2-135M as it comes and on a copy moved
off the 4-bit grid that it is stored on (its residual stream rotated), the worst of both and of the
schemes: from 2 to 8 bits `q2` to `q8`, `linear:a8wxdq` and `linear:a8w4dq` in groups of 32, and
`linear:int8` a row; at 16 bfloat16 throughout, as stock kernels compute; at 32 the least that
different orders of sums are given. An artifact may have FACTOR times the measured mean KL, and fall
short of full agreement and cosine by FACTOR times as much, but no more than LARGEST_KL: beyond it the
text is no longer the model's, whatever the bits. 2 bits a weight rounded to nearest are beyond it for
so small a model. Larger models lose less to the same bits. Between two rows bits are interpolated,
the logarithm of the KL.
"""

import math
from dataclasses import dataclass

FACTOR = 2.0
LARGEST_KL = 5.0

# Bits -> measured mean KL in nats, top-1 agreement, mean cosine of the logits.
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


@dataclass(frozen=True)
class Limits:
    """Mean KL in nats at the most; share of positions with the same top token, mean cosine of the
    logits, both at the least."""

    mean_kl: float
    top1: float
    cosine: float


def limits_for(bits: float) -> Limits:
    """For a model of so many bits a linear weight, scales not counted, the mean of its layers."""
    known = sorted(MEASURED)
    bits = min(max(bits, known[0]), known[-1])
    low = max(b for b in known if b <= bits)
    high = min(b for b in known if b >= bits)
    share = (bits - low) / (high - low) if high > low else 0.0
    (kl_a, *a), (kl_b, *b) = MEASURED[low], MEASURED[high]
    kl = math.exp((1 - share) * math.log(kl_a) + share * math.log(kl_b))
    top1, cosine = ((1 - share) * x + share * y for x, y in zip(a, b, strict=True))
    return Limits(min(FACTOR * kl, LARGEST_KL), _short_of_one(top1), _short_of_one(cosine))


def _short_of_one(measured: float) -> float:
    return max(0.0, 1 - FACTOR * (1 - measured))
