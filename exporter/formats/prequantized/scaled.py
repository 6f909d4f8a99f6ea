"""Weights of 8-bit floats or integers with scales beside them, and compressed-tensors' packed integers.

A scale is for the whole matrix, for a row, for a group of a row's columns, or for a block of rows and
columns; which, follows from its shape. Sources: DeepSeek-V3's weights, transformers' FineGrainedFP8, and
compressed-tensors' `float-quantized`, `int-quantized`, `naive-quantized` and `pack-quantized`.
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
    signed_values,
    spread,
    unpacked,
)

FLOATS_OF_8_BITS = ("F8_E4M3", "F8_E5M2")
PACKED_BITS = (1, 2, 4, 8)  # those of other widths were packed otherwise by older versions
# Scales of activations, which a runner of this project has no use for.
OF_ACTIVATIONS = (".input_scale", ".activation_scale", ".output_scale")
SCALE_ENDS = (".weight_scale", ".weight_scale_inv")
BlockSize = tuple[int, int]


def scaled_matrices(tensors: Directory, block: BlockSize | None) -> dict[str, StoredMatrix]:
    """Return the matrices that are stored as 8-bit floats or integers with scales, by module. `block`: rows
    and columns of a block, where the config says it."""
    found = {}
    for ending in SCALE_ENDS:
        ends = (".weight", ending, ".weight_zero_point", ".weight_g_idx", *OF_ACTIVATIONS)
        for module, parts in modules_with(tensors, ending, ends).items():
            if ".weight" in parts:  # otherwise packed
                found[module] = _scaled(module, parts, ending, block)
    return found


def _scaled(
    module: str, parts: Mapping[str, FileTensor], ending: str, block: BlockSize | None
) -> StoredMatrix:
    weight, scale = parts[".weight"], parts[ending]
    check_type(f"{module}.weight", weight, *FLOATS_OF_8_BITS, "I8")
    if len(weight.shape) != 2 or 0 in weight.shape:
        raise ValueError(f"tensor {module}.weight is {list(weight.shape)}, no matrix: download it again")
    _check_scale(module + ending, scale, weight.shape, block)
    zero = parts.get(".weight_zero_point")
    if zero is not None:
        check_type(f"{module}.weight_zero_point", zero, "I8", "I32")
        check_shape(f"{module}.weight_zero_point", zero, scale.shape)
    kind = "integers" if weight.dtype == "I8" else "floats"
    return StoredMatrix(
        weight.shape, tuple(module + end for end in parts), f"8-bit {kind} with scales",
        partial(_scaled_floats, weight, scale, zero, parts.get(".weight_g_idx"), block),
    )  # fmt: skip


def _check_scale(
    name: str, scale: FileTensor, shape: tuple[int, int], block: BlockSize | None
) -> None:
    """Raise ValueError for scales that do not divide a matrix of `shape`."""
    check_type(name, scale, "F32", "F16", "BF16", "F8_E8M0")
    rows, columns = shape
    if block is not None:
        whole = (-(-rows // block[0]), -(-columns // block[1]))
        return check_shape(name, scale, whole, (), (1,), (1, 1), (rows, 1))
    fits = len(scale.shape) == 2 and scale.shape[0] == rows and columns % max(scale.shape[1], 1) == 0
    if scale.shape not in ((), (1,), (rows,)) and not fits:
        raise ValueError(
            f"tensor {name} of shape {list(scale.shape)} are no scales of a matrix {list(shape)}, by row or "
            "group: complete weight_block_size in config.json, or download it again"
        )


def _scaled_floats(
    weight: FileTensor, scale: FileTensor, zero: FileTensor | None, group: FileTensor | None,
    block: BlockSize | None,
) -> np.ndarray:  # fmt: skip
    values = signed_values(weight) if weight.dtype == "I8" else float_values(weight)
    scales, shape = _as_matrix(float_values(scale)), weight.shape
    if zero is not None:
        values = values - _over(_as_matrix(signed_values(zero)), shape, block, group)
    return values * _over(scales, shape, block, group)


def _as_matrix(scales: np.ndarray) -> np.ndarray:
    return scales.reshape(1, 1) if scales.size == 1 else scales.reshape(len(scales), -1)


def _over(
    scales: np.ndarray, shape: tuple[int, int], block: BlockSize | None, group: FileTensor | None
) -> np.ndarray:
    """Return scales [rows or blocks, groups or blocks] for every element of a matrix of `shape`, or such that
    numpy spreads them."""
    rows, columns = shape
    if scales.size == 1 or scales.shape == (rows, 1):
        return scales
    if group is not None:
        return scales[:, group.bits().astype(np.int64)]
    if block is None:
        return spread(scales, columns)
    return np.repeat(np.repeat(scales, block[0], axis=0)[:rows], block[1], axis=1)[:, :columns]


def packed_matrices(tensors: Directory) -> dict[str, StoredMatrix]:
    """Return the matrices in compressed-tensors' `pack-quantized` form, by module."""
    ends = (
        ".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx",
        *OF_ACTIVATIONS,
    )  # fmt: skip
    return {
        module: _packed(module, parts)
        for module, parts in modules_with(tensors, ".weight_packed", ends).items()
        if parts[".weight_packed"].dtype != "U8"  # of 4-bit floats
    }


def _packed(module: str, parts: Mapping[str, FileTensor]) -> StoredMatrix:
    for end in (".weight_scale", ".weight_shape"):
        if end not in parts:
            raise ValueError(f"tensor {module}{end} is missing: download the whole checkpoint")
    words, scale, stated = (parts[end] for end in (".weight_packed", ".weight_scale", ".weight_shape"))
    check_type(f"{module}.weight_packed", words, "I32")
    check_type(f"{module}.weight_shape", stated, "I64", "I32")
    check_shape(f"{module}.weight_shape", stated, (2,))
    rows, columns = (int(size) for size in stated.bits())
    bits = next((bits for bits in PACKED_BITS if words.shape == (rows, -(-columns * bits // 32))), None)
    if bits is None or not rows or not columns:
        raise ValueError(
            f"tensor {module}.weight_packed of shape {list(words.shape)} does not hold 1, 2, 4 or 8 bits for "
            f"each element of [{rows}, {columns}]: use the checkpoint in its original precision"
        )
    _check_scale(f"{module}.weight_scale", scale, (rows, columns), None)
    zero, group = parts.get(".weight_zero_point"), parts.get(".weight_g_idx")
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    if zero is not None:
        check_type(f"{module}.weight_zero_point", zero, "I32")
        check_shape(f"{module}.weight_zero_point", zero, (-(-rows * bits // 32), groups))
    if group is not None:
        check_type(f"{module}.weight_g_idx", group, "I32", "I64")
        check_shape(f"{module}.weight_g_idx", group, (columns,))
        named = group.bits().astype(np.int64)
        if not (0 <= named.min() and named.max() < groups):
            raise ValueError(
                f"tensor {module}.weight_g_idx names a group beyond the {groups}: download it again"
            )
    return StoredMatrix(
        (rows, columns), tuple(module + end for end in parts), f"packed, {bits} bits",
        partial(_packed_floats, parts, (rows, columns), bits),
    )  # fmt: skip


def _packed_floats(parts: Mapping[str, FileTensor], shape: tuple[int, int], bits: int) -> np.ndarray:
    rows, columns = shape
    group, scales = parts.get(".weight_g_idx"), _as_matrix(float_values(parts[".weight_scale"]))
    values = unpacked(parts[".weight_packed"].bits(), bits, columns).astype(np.float32)
    if ".weight_zero_point" in parts:  # packed along the rows
        zeros = unpacked(parts[".weight_zero_point"].bits().T, bits, rows).T.astype(np.float32)
    else:
        zeros = np.full((1, 1), 1 << (bits - 1), np.float32)
    values -= _over(zeros, shape, None, group)
    return values * _over(scales, shape, None, group)
