"""torchao's tensors, as transformers saves them in safetensors: the parts of MODULE.weight are named
MODULE._weight_qdata, ..., and the file's metadata says what they are.

Sources: torchao's prototype/safetensors and the tensor classes that it knows; of `Int4Tensor` the functions
int4_row_quantize_zp and pack_int4 of mslk, which torchao packs by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from exporter.formats.file_tensor import Directory, FileTensor
from exporter.formats.prequantized.fp4 import E2M1
from exporter.formats.prequantized.matrix import (
    StoredMatrix,
    check_shape,
    check_type,
    float_values,
    signed_values,
    unpacked_bytes,
)
from exporter.formats.prequantized.scaled import FLOATS_OF_8_BITS
from exporter.formats.quantized_names import QUANTIZED_REMEDY
from exporter.formats.safetensors_file import read_metadata

PLAIN_TENSOR = "Tensor"  # the class of what is not quantized
FLOATS_OF_SCALES, INTEGERS = ("F32", "F16", "BF16"), ("I8", "I32")
# Types of MX elements, as torch names them, and as they are stored: two of 4 bits are a byte.
MX_ELEMENTS: Mapping[str, str] = {
    "float4_e2m1fn_x2": "U8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
BLOCKED_ROWS, BLOCKED_COLUMNS = 128, 4  # of scales in the order of NVIDIA's tensor cores


@dataclass(frozen=True)
class _Saved:
    """A tensor of torchao: its stored name and class, its parts by torchao's names and its other fields."""

    name: str
    kind: str
    parts: Mapping[str, FileTensor]
    fields: Mapping[str, object]

    def floats_of(self, part: str) -> np.ndarray:
        return float_values(self.parts[part])

    def check(self, part: str, types: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
        """Raise ValueError where a part is missing, or has another type, or none of `shapes`, if any are
        given."""
        if part not in self.parts:
            raise self.refused(f"has no {part}")
        where = f"{self.name} ({part})"
        check_type(where, self.parts[part], *types)
        if shapes:
            check_shape(where, self.parts[part], *shapes)

    def refused(self, why: str) -> ValueError:
        return ValueError(f"tensor {self.name} of torchao's {self.kind} {why}: {QUANTIZED_REMEDY}")


def torchao_matrices(tensors: Directory) -> dict[str, StoredMatrix]:
    """Return the matrices that torchao quantized, by module. Raises ValueError naming one whose class is not
    read, or whose parts do not fit."""
    found, modules = {}, {name.rpartition(".")[0] for name in tensors if "." in name}
    for path in sorted({tensor.path for tensor in tensors.values()}):
        notes = read_metadata(path) if path.suffix == ".safetensors" else {}
        for name in (name for name in notes if name.rpartition(".")[0] in modules):
            saved = _saved(name, notes[name], tensors)
            if saved.kind == PLAIN_TENSOR:
                continue
            module, _, parameter = name.rpartition(".")
            if parameter != "weight" or saved.kind not in _READERS:
                listed = ", ".join(_READERS)
                raise ValueError(
                    f"tensor {name} is torchao's {saved.kind}, and weights of {listed} are read: "
                    f"{QUANTIZED_REMEDY}"
                )
            shape, floats = _READERS[saved.kind](saved)
            if "act_pre_scale" in saved.parts:
                saved.check("act_pre_scale", FLOATS_OF_SCALES, (), (1,), shape[1:], (1, shape[1]))
            stored = tuple(f"{module}._weight_{part}" for part in saved.parts)
            found[module] = StoredMatrix(
                shape, stored, f"torchao's {saved.kind}", partial(_with_scaled_inputs, saved, floats)
            )
    return found


def _saved(name: str, note: str, tensors: Directory) -> _Saved:
    """Read what the metadata says of a tensor. Raises ValueError where that is damaged, or a part missing."""
    try:
        said = json.loads(note)
        kind, fields = said["_type"], said.get("_data") or {}
        names = said.get("_tensor_data_names") or []
        whole = isinstance(kind, str) and isinstance(fields, dict) and isinstance(names, list)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole or not all(isinstance(part, str) for part in names):
        raise ValueError(f"what the metadata says of tensor {name} is damaged: download it again")
    module, _, parameter = name.rpartition(".")
    parts = {part: tensors.get(f"{module}._{parameter}_{part}") for part in names}
    for part, tensor in parts.items():
        if tensor is None:
            raise ValueError(f"tensor {module}._{parameter}_{part} is missing: download the whole checkpoint")
    return _Saved(name, kind, parts, fields)


def _with_scaled_inputs(saved: _Saved, floats: Callable[[], np.ndarray]) -> np.ndarray:
    """Multiply the columns by what torchao multiplies the layer's inputs by, where there is such a part."""
    return floats() * saved.floats_of("act_pre_scale") if "act_pre_scale" in saved.parts else floats()


_Found = tuple[tuple[int, int], Callable[[], np.ndarray]]


def _scaled(saved: _Saved, *types: str) -> _Found:
    """Read 8-bit floats or integers, one a byte, with a scale and perhaps a zero point a block."""
    saved.check("qdata", types)
    shape = saved.parts["qdata"].shape
    grid = _blocks(saved, shape)
    of_parts = {"scale": FLOATS_OF_SCALES} | ({"zero_point": INTEGERS} if "zero_point" in saved.parts else {})
    for part, known in of_parts.items():
        saved.check(part, known, *_shapes_over(grid))
    return shape, partial(_scaled_floats, saved, grid)


def _scaled_floats(saved: _Saved, grid: tuple[int, int]) -> np.ndarray:
    quantized = saved.parts["qdata"]
    values = signed_values(quantized) if quantized.dtype == "I8" else float_values(quantized)
    if "zero_point" in saved.parts:
        values = values - _over_blocks(signed_values(saved.parts["zero_point"]).reshape(grid), values.shape)
    return values * _over_blocks(saved.floats_of("scale").reshape(grid), values.shape)


def _blocks(saved: _Saved, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many blocks a matrix has along its rows and columns."""
    block = saved.fields.get("block_size")
    whole = isinstance(block, list) and len(block) == len(shape) == 2
    if not whole or not all(isinstance(size, int) and size > 0 for size in block) or 0 in shape:
        raise saved.refused(f"is {list(shape)} in blocks of {block!r}, no matrix of whole blocks")
    if any(size % own for size, own in zip(shape, block, strict=True)):
        raise saved.refused(f"is {list(shape)} in blocks of {block!r}, no matrix of whole blocks")
    return shape[0] // block[0], shape[1] // block[1]


def _shapes_over(grid: tuple[int, int]) -> list[tuple[int, ...]]:
    """Return the shapes of what is there for each block: `grid`, without dimensions of one at its end."""
    shapes = [grid, grid[:1], ()]
    return shapes[: 1 + (grid[1] == 1) + (grid == (1, 1))]


def _over_blocks(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Repeat values [blocks, blocks] over a matrix of `shape`."""
    rows, columns = (size // n for size, n in zip(shape, values.shape, strict=True))
    return np.repeat(np.repeat(values, rows, axis=0), columns, axis=1)


def _int4(saved: _Saved) -> _Found:
    """Read signed integers of 4 bits, two a byte, with float scales and zeros [groups, N]: scale q + zero."""
    saved.check("qdata", ("I8", "U8"))
    shape = _matrix(saved, elements=2)
    across, groups = _blocks(saved, shape)
    if across != shape[0]:
        raise saved.refused("has groups of several rows")
    for part in ("scale", "zero_point"):
        saved.check(part, FLOATS_OF_SCALES, (groups, across))
    return shape, partial(_int4_floats, saved)


def _matrix(saved: _Saved, elements: int) -> tuple[int, int]:
    """Return the shape of a matrix whose qdata has so many elements an item; [0, 0] where it is none."""
    stored = saved.parts["qdata"].shape
    return (stored[0], stored[1] * elements) if len(stored) == 2 else (0, 0)


def _int4_floats(saved: _Saved) -> np.ndarray:
    unsigned = unpacked_bytes(saved.parts["qdata"].bits(), 4).astype(np.float32)
    values = np.where(unsigned > 7, unsigned - 16, unsigned)
    scales, zeros = (_over_blocks(saved.floats_of(part).T, values.shape) for part in ("scale", "zero_point"))
    return values * scales + zeros


def _mx(saved: _Saved) -> _Found:
    """Read floats of 4 or 8 bits whose groups have powers of two for scales (OCP's MX formats)."""
    element = saved.fields.get("elem_dtype")
    stored = MX_ELEMENTS.get(str(element.get("_data"))) if isinstance(element, Mapping) else None
    if stored is None:
        raise saved.refused(f"has elements {element!r}, and {', '.join(MX_ELEMENTS)} are read")
    return _microscaled(saved, stored, ("F8_E8M0", "U8"))


def _nvfp4(saved: _Saved) -> _Found:
    """Read floats of 4 bits whose groups have 8-bit floats for scales, perhaps with one number over all."""
    if "per_tensor_scale" in saved.parts:
        saved.check("per_tensor_scale", FLOATS_OF_SCALES, *_shapes_over((1, 1)))
    return _microscaled(saved, "U8", ("F8_E4M3",))


def _microscaled(saved: _Saved, stored: str, scales: tuple[str, ...]) -> _Found:
    """Read floats of 4 bits, two in a byte (U8), or of 8, whose groups have scales of 8 bits."""
    saved.check("qdata", (stored,))
    shape, group = _matrix(saved, 2 if stored == "U8" else 1), saved.fields.get("block_size")
    if type(group) is not int or group < 1 or 0 in shape or shape[1] % group:
        raise saved.refused(f"is {list(shape)} in groups of {group!r}, no matrix of whole groups")
    swizzled = saved.fields.get("is_swizzled_scales") or False
    if type(swizzled) is not bool:
        raise saved.refused(f"has is_swizzled_scales {swizzled!r}, not true or false")
    grid = (shape[0], shape[1] // group)
    saved.check("scale", scales, *(_blocked_shapes(grid) if swizzled else (grid,)))
    return shape, partial(_microscaled_floats, saved, grid, swizzled)


def _microscaled_floats(saved: _Saved, grid: tuple[int, int], swizzled: bool) -> np.ndarray:
    quantized, scale = saved.parts["qdata"], saved.parts["scale"]
    packed = quantized.dtype == "U8"
    values = E2M1[unpacked_bytes(quantized.bits(), 4)] if packed else float_values(quantized)
    scales = float_values(scale, "F8_E8M0" if scale.dtype == "U8" else scale.dtype)
    if swizzled:
        scales = _in_rows(scales, grid)
    if "per_tensor_scale" in saved.parts:
        scales = scales * saved.floats_of("per_tensor_scale").reshape(())
    return values * _over_blocks(scales, values.shape)


def _blocked_shapes(grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return the shapes of scales in the order of tensor cores: by blocks, or as many as rows and columns."""
    rows, columns = _blocked_shape(grid)
    return (rows // 4, columns * 4), (rows, columns)


def _blocked_shape(grid: tuple[int, int]) -> tuple[int, int]:
    return -(-grid[0] // BLOCKED_ROWS) * BLOCKED_ROWS, -(-grid[1] // BLOCKED_COLUMNS) * BLOCKED_COLUMNS


def _in_rows(scales: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return scales [rows, groups] that are stored in the order of tensor cores: blocks of 128 rows and 4
    columns, in each the rows 0, 32, 64, 96, then 1, 33, ..."""
    rows, columns = _blocked_shape(grid)
    blocks = scales.reshape(rows // BLOCKED_ROWS, columns // BLOCKED_COLUMNS, 32, 4, BLOCKED_COLUMNS)
    return blocks.transpose(0, 3, 2, 1, 4).reshape(rows, columns)[: grid[0], : grid[1]]


_READERS: Mapping[str, Callable[[_Saved], _Found]] = {
    "Int8Tensor": lambda saved: _scaled(saved, "I8"),
    "IntxUnpackedToInt8Tensor": lambda saved: _scaled(saved, "I8"),
    "Float8Tensor": lambda saved: _scaled(saved, *FLOATS_OF_8_BITS),
    "Int4Tensor": _int4,
    "MXTensor": _mx,
    "NVFP4Tensor": _nvfp4,
}
