"""Ternary matrices, -1, 0 and 1 times a scale of their own (BitNet b1.58, arXiv 2402.17764): packed, or
floats that a forward rounds to them.

Packed, `weight` [N / 4, K] holds two bits a weight, which are the weight plus 1, the lowest those of the
first quarter of the rows, and `weight_scale` the scale, or one by it. Source: transformers' BitNetQuantConfig
and integrations/bitnet.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from exporter.formats.file_tensor import Directory, FileTensor
from exporter.formats.prequantized.matrix import StoredMatrix, float_values, in_type

ROWS_A_BYTE = 4
LAYERS, WEIGHT, PACKED_SCALE = "model.layers.", ".weight", ".weight_scale"  # tables are not ternary
SMALLEST_MEAN = 1e-5


def packed_ternary(tensors: Directory, inverse: bool) -> dict[str, StoredMatrix]:
    """Return the layers' matrices of packed weights, by module. `inverse`: one by the scale is stored.

    Raises ValueError naming a matrix that is not packed.
    """
    found = {}
    for module, weight in _matrices(tensors):
        scale = tensors.get(module + PACKED_SCALE)
        if scale is None or weight.dtype != "U8" or scale.shape not in ((), (1,)):
            raise ValueError(
                f"tensor {module}.weight is not packed with a scale beside it: use another copy"
            )
        rows, columns = weight.shape
        found[module] = StoredMatrix(
            (ROWS_A_BYTE * rows, columns), (module + WEIGHT, module + PACKED_SCALE), "ternary",
            partial(_of_bytes, weight, scale, inverse),
        )  # fmt: skip
    return found


def rounded_ternary(tensors: Directory) -> dict[str, StoredMatrix]:
    """Return the layers' matrices of floats, which transformers rounds in each forward, by module."""
    return {
        module: StoredMatrix(
            weight.shape, (module + WEIGHT,), "ternary when rounded", partial(_rounded, weight)
        )
        for module, weight in _matrices(tensors)
    }


def _matrices(tensors: Directory) -> list[tuple[str, FileTensor]]:
    return [
        (name.removesuffix(WEIGHT), tensor) for name, tensor in tensors.items()
        if name.startswith(LAYERS) and name.endswith(WEIGHT) and len(tensor.shape) == 2
    ]  # fmt: skip


def _of_bytes(weight: FileTensor, scale: FileTensor, inverse: bool) -> np.ndarray:
    bits, factor = weight.bits(), float_values(scale).reshape(())
    quarters = [(bits >> (2 * i) & 3).astype(np.float32) - 1 for i in range(ROWS_A_BYTE)]
    return np.concatenate(quarters) * (1 / factor if inverse else factor)


def _rounded(weight: FileTensor) -> np.ndarray:
    """Return what transformers makes of a matrix, in the type in which it is stored."""
    values = float_values(weight)
    inverse = np.float32(1) / np.maximum(np.abs(values).mean(dtype=np.float32), np.float32(SMALLEST_MEAN))
    return in_type(np.clip(np.round(values * inverse), -1, 1) / inverse, weight.dtype)
