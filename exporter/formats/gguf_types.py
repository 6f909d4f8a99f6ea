"""Name GGUF's tensor types, and turn their blocks into floats.

The gguf package reads most. Those of one and two bits are read here, which it does not: a float16 scale, then
integers from the lowest bits of each byte on. Sources: ggml's ggml-common.h and ggml-quants.c (`Q1_0`,
`Q2_0`), and the private `PQ2_0` of PrismML's copy of it, for groups of 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from exporter.formats.prequantized.matrix import unpacked_bytes

UNQUANTIZED = frozenset({"F64", "F32", "F16", "BF16"})
SCALE_BYTES = 2  # of a block of integers below
ONE_BIT, TWO_BITS = (-1.0, 1.0), (-1.0, 0.0, 1.0, 2.0)  # what the integers stand for


@dataclass(frozen=True)
class TensorType:
    """A type of tensors: rows of blocks of `block` elements in `block_bytes`. `floats` turns rows of bytes,
    uint8 [rows, bytes], into float32 [rows, elements]; None for integers, and for what ggml makes of
    activations only."""

    name: str
    block: int
    block_bytes: int
    floats: Callable[[np.ndarray], np.ndarray] | None


@cache
def tensor_type(number: int) -> TensorType:
    """Return the type that GGUF numbers so. Raises ValueError for a number that is unknown."""
    if number in _OURS:
        return _OURS[number]
    kind = GGMLQuantizationType(number)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    floats = partial(dequantize, qtype=kind)
    try:
        floats(np.zeros((1, block_bytes), np.uint8))
    except NotImplementedError:
        floats = None
    return TensorType(kind.name, block, block_bytes, floats)


def _levels(rows: np.ndarray, group: int, levels: tuple[float, ...]) -> np.ndarray:
    """Return the floats of rows whose groups are a scale and an integer for each element, which is one of
    `levels`, in order."""
    bits = (len(levels) - 1).bit_length()
    blocks = rows.reshape(-1, SCALE_BYTES + group * bits // 8)
    scales = np.ascontiguousarray(blocks[:, :SCALE_BYTES]).view("<f2").astype(np.float32)
    integers = unpacked_bytes(blocks[:, SCALE_BYTES:], bits)
    return (np.array(levels, np.float32)[integers] * scales).reshape(len(rows), -1)


def _float64(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is beyond float32 is infinite
        return rows.view("<f8").astype(np.float32)


_OURS = {
    GGMLQuantizationType.F64.value: TensorType("F64", 1, 8, _float64),
    41: TensorType("Q1_0", 128, 18, partial(_levels, group=128, levels=ONE_BIT)),
    42: TensorType("Q2_0", 64, 18, partial(_levels, group=64, levels=TWO_BITS)),
    142: TensorType("PQ2_0", 128, 34, partial(_levels, group=128, levels=TWO_BITS)),
}
