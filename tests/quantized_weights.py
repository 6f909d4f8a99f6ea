"""Float weights that are hard to quantize, and the schemes that tests quantize them by."""

import torch

from exporter.recipe.schemes import LinearScheme

HALF_ROUNDING = 2.0**-11  # a float16's relative error


def weights(rows: int = 48, columns: int = 256, seed: int = 0) -> torch.Tensor:
    """Normal values, with rows of other sizes and offsets, of zeros and of one sign."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.02
    weight[1] *= 1000
    weight[2] *= 1e-4
    weight[3] += 0.5
    weight[4] = 0
    weight[5] = weight[5].abs()
    weight[6] = -weight[6].abs()
    weight[7, ::32] = 3.0
    return weight


def native(
    bits: int, zeros: bool = False, method: str = "rtn", groupsize: int = 32,
    scale_dtype: str = "float16",
):  # fmt: skip
    return LinearScheme("linear:a8wx", groupsize, bits, zeros, method, scale_dtype)
