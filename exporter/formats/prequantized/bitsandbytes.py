"""bitsandbytes' matrices: 4-bit codes of a table (NF4, FP4) with a scale for each block, and 8-bit integers
with one for each row.

Of a matrix in 4 bits `weight` holds the codes of all elements in order, two a byte, the first in the upper
half; `weight.quant_map` the table, `weight.absmax` the blocks' scales, which may be codes of a table
themselves (QLoRA's double quantization, arXiv 2305.14314), and `weight.quant_state.bitsandbytes__nf4` sizes
as JSON. Of one in 8 bits (LLM.int8(), arXiv 2208.07339) `SCB` holds each row's largest magnitude, which 127
stands for. Sources: bitsandbytes' QuantState, Linear4bit, Linear8bitLt and default/ops.
"""

from __future__ import annotations

import json
import math
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
)
from exporter.formats.quantized_names import QUANTIZED_REMEDY

STATE = ".weight.quant_state.bitsandbytes__"  # then nf4 or fp4
STATE_KINDS = ("nf4", "fp4")
TABLE, BLOCK_SCALES = ".weight.quant_map", ".weight.absmax"
NESTED_TABLE, NESTED_SCALES = ".weight.nested_quant_map", ".weight.nested_absmax"
ROWS_SCALES, ORDER = ".SCB", ".weight_format"
IN_ROWS = 0  # of ORDER: not in the tiles of a GPU
LARGEST = np.float32(127)
FLOAT32_MAX = float(np.finfo(np.float32).max)
_Parts = Mapping[str, FileTensor]


def bitsandbytes_matrices(tensors: Directory) -> dict[str, StoredMatrix]:
    """Return the matrices that bitsandbytes quantized, by module. Raises ValueError naming a part that does
    not fit."""
    found = {}
    for kind in STATE_KINDS:
        ends = (".weight", STATE + kind, TABLE, BLOCK_SCALES, NESTED_TABLE, NESTED_SCALES)
        for module, parts in modules_with(tensors, STATE + kind, ends).items():
            found[module] = _four_bits(module, parts, kind)
    for module, parts in modules_with(tensors, ROWS_SCALES, (".weight", ROWS_SCALES, ORDER)).items():
        found[module] = _eight_bits(module, parts)
    return found


def _four_bits(module: str, parts: _Parts, kind: str) -> StoredMatrix:
    _check_there(module, parts, ".weight", TABLE, BLOCK_SCALES)
    state = _state(module, parts[STATE + kind])
    shape, block = state["shape"], state["blocksize"]
    n = math.prod(shape)
    _check_scales(module, -(-n // block), state, parts)
    check_type(module + TABLE, parts[TABLE], "F32")
    check_shape(module + TABLE, parts[TABLE], (16,))
    codes = parts[".weight"]
    if math.prod(codes.shape) * codes.bits().itemsize != -(-n // 2):
        raise ValueError(
            f"tensor {module}.weight of {list(codes.shape)} {codes.dtype} does not hold 4 bits for each of "
            f"{shape}: download it again"
        )
    return StoredMatrix(
        tuple(shape), tuple(module + end for end in parts), f"bitsandbytes' {kind.upper()}",
        partial(_four_bit_floats, parts, state),
    )  # fmt: skip


def _state(module: str, tensor: FileTensor) -> dict:
    """Read the sizes that a tensor of bytes holds as JSON. Raises ValueError where one is none."""
    try:
        state = json.loads(tensor.bits().tobytes())
        sizes, offset = [*state["shape"], state["blocksize"]], 0.0
        if "nested_blocksize" in state:
            sizes.append(state["nested_blocksize"])
            offset = state["nested_offset"]
        whole = len(state["shape"]) == 2 and all(type(size) is int and size > 0 for size in sizes)
        fits = type(offset) in (int, float) and abs(offset) <= FLOAT32_MAX
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = fits = False
    if not whole or not fits:
        raise ValueError(f"what {module}.weight.quant_state says is damaged: download it again")
    return state


def _check_scales(module: str, blocks: int, state: Mapping[str, object], parts: _Parts) -> None:
    """Raise ValueError where the scales are not as many as `blocks`, or lack what they are codes of."""
    nested = "nested_blocksize" in state
    check_shape(module + BLOCK_SCALES, parts[BLOCK_SCALES], (blocks,))
    check_type(module + BLOCK_SCALES, parts[BLOCK_SCALES], "U8" if nested else "F32")
    if not nested:
        return
    _check_there(module, parts, NESTED_TABLE, NESTED_SCALES)
    for end, size in ((NESTED_TABLE, 256), (NESTED_SCALES, -(-blocks // state["nested_blocksize"]))):
        check_shape(module + end, parts[end], (size,))
        check_type(module + end, parts[end], "F32")


def _check_there(module: str, parts: _Parts, *ends: str) -> None:
    for end in ends:
        if end not in parts:
            raise ValueError(f"tensor {module}{end} is missing: download the whole checkpoint")


def _four_bit_floats(parts: _Parts, state: Mapping[str, object]) -> np.ndarray:
    shape = state["shape"]
    data = np.ascontiguousarray(parts[".weight"].bits()).reshape(-1).view(np.uint8)
    codes = np.stack([data >> 4, data & 15], axis=1).reshape(-1)[: math.prod(shape)]
    values = float_values(parts[TABLE])[codes]
    return (values * _over_blocks(_scales(parts, state), state["blocksize"], len(values))).reshape(shape)


def _scales(parts: _Parts, state: Mapping[str, object]) -> np.ndarray:
    """Return the blocks' scales: stored, or a table's values times scales of their own, plus their mean."""
    if "nested_blocksize" not in state:
        return float_values(parts[BLOCK_SCALES])
    values = float_values(parts[NESTED_TABLE])[parts[BLOCK_SCALES].bits()]
    scales = _over_blocks(float_values(parts[NESTED_SCALES]), state["nested_blocksize"], len(values))
    return values * scales + np.float32(state["nested_offset"])


def _over_blocks(scales: np.ndarray, block: int, count: int) -> np.ndarray:
    """Repeat each block's scale for its elements, `count` in all; the only block may be longer than that."""
    return np.repeat(scales, min(block, count))[:count]


def _eight_bits(module: str, parts: _Parts) -> StoredMatrix:
    _check_there(module, parts, ".weight")
    weight, scales = parts[".weight"], parts[ROWS_SCALES]
    check_type(f"{module}.weight", weight, "I8")
    if len(weight.shape) != 2 or 0 in weight.shape:
        raise ValueError(f"tensor {module}.weight is {list(weight.shape)}, no matrix: download it again")
    check_type(module + ROWS_SCALES, scales, "F32")
    check_shape(module + ROWS_SCALES, scales, weight.shape[:1])
    if ORDER in parts and parts[ORDER].bits().tolist() != IN_ROWS:
        raise ValueError(f"tensor {module}.weight lies in the tiles of a GPU: {QUANTIZED_REMEDY}")
    return StoredMatrix(
        weight.shape, tuple(module + end for end in parts), "bitsandbytes' 8-bit integers",
        partial(_eight_bit_floats, weight, scales),
    )  # fmt: skip


def _eight_bit_floats(weight: FileTensor, scales: FileTensor) -> np.ndarray:
    return signed_values(weight) * (float_values(scales) / LARGEST)[:, None]
