"""GPTQ's packed integers, as AutoGPTQ and GPTQModel store them, and AWQ's, as AutoAWQ's `gemm` does.

Of a layer [out, in]: `qweight` packs, in GPTQ, integers of one output along the inputs, and in AWQ eight
outputs of one input; `scales` are [groups, out], `qzeros` their zero points, packed along the outputs.
W = scale · (integer - zero). Sources: auto_gptq's qlinear_cuda_old, gptqmodel's qqq of `gptq_v2`, awq's
WQLinear_GEMM and packing_utils.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from exporter.formats.file_tensor import Directory, FileTensor
from exporter.formats.prequantized.matrix import (
    StoredMatrix,
    check_shape,
    check_type,
    float_values,
    modules_with,
    unpacked,
)

GPTQ_BITS = (2, 3, 4, 8)
ENDS = (".qweight", ".qzeros", ".scales", ".g_idx")
# The outputs that the eight fields of an AWQ word hold, lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Packing:
    """How integers are packed: their bits, the inputs of a group, -1 for all, and what is added to a stored
    zero point: 1 in GPTQ's version 1, 0 in its version 2."""

    bits: int
    group_size: int
    zero_offset: int = 0

    def group_of(self, inputs: int) -> np.ndarray:
        """Return the group of each input where groups are neighbours."""
        return np.arange(inputs) // (inputs if self.group_size == -1 else self.group_size)


def gptq_matrices(tensors: Directory, packing: Packing) -> dict[str, StoredMatrix]:
    """Return the matrices of layers in GPTQ's form by module."""
    return {
        module: _gptq(module, parts, packing)
        for module, parts in modules_with(tensors, ".qweight", ENDS).items()
    }


def _gptq(module: str, parts: Mapping[str, FileTensor], packing: Packing) -> StoredMatrix:
    groups, outputs, words = _sizes(module, parts)
    bits, inputs = packing.bits, words * 32 // packing.bits
    _check_groups(module, parts, packing, inputs)
    check_shape(f"{module}.qweight", parts[".qweight"], (words, outputs))
    check_shape(f"{module}.qzeros", parts[".qzeros"], (groups, outputs * bits // 32))
    if ".g_idx" in parts:
        check_type(f"{module}.g_idx", parts[".g_idx"], "I32", "I64")
        check_shape(f"{module}.g_idx", parts[".g_idx"], (inputs,))
    return StoredMatrix(
        (outputs, inputs), _names(module, parts), f"GPTQ, {bits} bits",
        partial(_gptq_floats, module, parts, packing, inputs),
    )  # fmt: skip


def _gptq_floats(
    module: str, parts: Mapping[str, FileTensor], packing: Packing, inputs: int
) -> np.ndarray:
    bits, scales = packing.bits, float_values(parts[".scales"])
    groups, outputs = scales.shape
    stored = unpacked(parts[".qzeros"].bits(), bits, outputs)
    zeros = (stored + np.uint8(packing.zero_offset)) & np.uint8((1 << bits) - 1)
    if ".g_idx" in parts:  # with desc_act the inputs of a group are not neighbours
        group_of = parts[".g_idx"].bits().astype(np.int64)
        if inputs and not (0 <= group_of.min() and group_of.max() < groups):
            raise ValueError(f"tensor {module}.g_idx names a group beyond the {groups}: download it again")
    else:
        group_of = packing.group_of(inputs)
    integers = unpacked(np.ascontiguousarray(parts[".qweight"].bits().T), bits, inputs)
    return _dequantized(integers, zeros, scales, group_of)


def awq_matrices(tensors: Directory, packing: Packing) -> dict[str, StoredMatrix]:
    """Return the matrices of layers in AWQ's `gemm` form, of 4 bits, by module."""
    return {
        module: _awq(module, parts, packing)
        for module, parts in modules_with(tensors, ".qweight", ENDS[:3]).items()
    }


def _awq(module: str, parts: Mapping[str, FileTensor], packing: Packing) -> StoredMatrix:
    groups, outputs, inputs = _sizes(module, parts)
    _check_groups(module, parts, packing, inputs)
    check_shape(f"{module}.qweight", parts[".qweight"], (inputs, outputs // 8))
    check_shape(f"{module}.qzeros", parts[".qzeros"], (groups, outputs // 8))
    return StoredMatrix((outputs, inputs), _names(module, parts), "AWQ, 4 bits",
                        partial(_awq_floats, parts, packing))  # fmt: skip


def _awq_floats(parts: Mapping[str, FileTensor], packing: Packing) -> np.ndarray:
    scales = float_values(parts[".scales"])
    integers, zeros = (_in_order(parts[end].bits(), scales.shape[1]) for end in (".qweight", ".qzeros"))
    return _dequantized(integers.T, zeros, scales, packing.group_of(len(integers)))


def _in_order(words: np.ndarray, outputs: int) -> np.ndarray:
    """Unpack AWQ's words [rows, out / 8] with the outputs in their order."""
    values = unpacked(words, 4, outputs).reshape(len(words), -1, 8)
    return values[:, :, np.argsort(AWQ_ORDER)].reshape(len(words), outputs)


def _dequantized(
    integers: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group_of: np.ndarray
) -> np.ndarray:
    """Return scale · (integer - zero), [out, in]; `integers` are that, the others [groups, out]."""
    shifted = integers.astype(np.float32) - zeros.T.astype(np.float32)[:, group_of]
    return shifted * scales.T[:, group_of]


def _sizes(module: str, parts: Mapping[str, FileTensor]) -> tuple[int, int, int]:
    """Return the groups, the outputs, and the rows of qweight. Raises ValueError for parts that are missing
    or of a wrong type."""
    for end in (".qweight", ".qzeros", ".scales"):
        if end not in parts:
            raise ValueError(f"tensor {module}{end} is missing: download the whole checkpoint")
        types = ("F16", "BF16", "F32") if end == ".scales" else ("I32", "U32")
        check_type(module + end, parts[end], *types)
        shape = parts[end].shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"tensor {module}{end} is {list(shape)}, no matrix: download it again")
    return *parts[".scales"].shape, parts[".qweight"].shape[0]


def _check_groups(
    module: str, parts: Mapping[str, FileTensor], packing: Packing, inputs: int
) -> None:
    """Raise ValueError where there are not as many groups as `inputs` have."""
    groups = int(packing.group_of(inputs)[-1]) + 1
    check_shape(f"{module}.scales", parts[".scales"], (groups, parts[".scales"].shape[1]))


def _names(module: str, parts: Mapping[str, FileTensor]) -> tuple[str, ...]:
    return tuple(module + end for end in parts)
