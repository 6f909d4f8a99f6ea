"""Matrices of 4-bit floats in compressed-tensors' `mxfp4-pack-quantized` and `nvfp4-pack-quantized`.

Two elements (E2M1) a byte, the first in its lower half, with a scale for 32 columns (MXFP4: a power of two,
E8M0; OCP's Microscaling Formats) or 16 (NVFP4: E4M3, divided by one global scale of the matrix).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from exporter.formats.file_tensor import Directory, FileTensor
from exporter.formats.prequantized.matrix import (
    StoredMatrix,
    check_shape,
    check_type,
    float_values,
    modules_with,
    unpacked_bytes,
)

_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
MX_GROUP, NV_GROUP = 32, 16
_ENDS = (".weight_packed", ".weight_scale", ".weight_global_scale", ".input_global_scale")


def fp4_matrices(tensors: Directory) -> dict[str, StoredMatrix]:
    """Return the matrices of 4-bit floats, by module: those whose packed elements are bytes."""
    return {
        module: _fp4(module, parts)
        for module, parts in modules_with(tensors, ".weight_packed", _ENDS).items()
        if parts[".weight_packed"].dtype == "U8"
    }


def _fp4(module: str, parts: Mapping[str, FileTensor]) -> StoredMatrix:
    if ".weight_scale" not in parts:
        raise ValueError(f"tensor {module}.weight_scale is missing: download the whole checkpoint")
    packed, scale, whole = (parts.get(end) for end in _ENDS[:3])
    if len(packed.shape) != 2 or 0 in packed.shape:
        raise ValueError(
            f"tensor {module}.weight_packed is {list(packed.shape)}, no matrix: download it again"
        )
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    name, group, types = ("MXFP4", MX_GROUP, ("U8", "F8_E8M0"))
    if whole is not None:
        name, group, types = "NVFP4", NV_GROUP, ("F8_E4M3",)
        check_type(f"{module}.weight_global_scale", whole, "F32", "F16", "BF16")
        check_shape(f"{module}.weight_global_scale", whole, (), (1,))
    check_type(f"{module}.weight_scale", scale, *types)
    check_shape(f"{module}.weight_scale", scale, (rows, -(-columns // group)))
    names = tuple(module + end for end in parts)
    return StoredMatrix((rows, columns), names, name, partial(_fp4_floats, packed, scale, whole, group))


def _fp4_floats(
    packed: FileTensor, scale: FileTensor, whole: FileTensor | None, group: int
) -> np.ndarray:
    values = E2M1[unpacked_bytes(packed.bits(), 4)]
    scales = float_values(scale, "F8_E8M0" if scale.dtype == "U8" else scale.dtype)
    if whole is not None:
        scales = scales / float_values(whole)
    return values * np.repeat(scales, group, axis=1)[:, : values.shape[1]]
