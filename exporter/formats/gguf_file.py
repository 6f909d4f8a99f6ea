"""Read a GGUF file's fields and tensors, every length checked against the file's size.

Layout: ggml's docs/gguf.md, versions 2 and 3, little-endian. `gguf.GGUFReader` reads the same, but
takes seconds for a large vocabulary and loops for ever on some damaged files.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from exporter.formats.file_kind import check_content
from exporter.formats.gguf_types import UNQUANTIZED, TensorType, tensor_type

GGUF_MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
STRING, ARRAY = 8, 9
# Tensors of one number beside NAME.weight, as llama.cpp has them for NVFP4: what the weight is multiplied by,
# and the scale of its activations, which no runner here has a use for.
WEIGHT_SCALE, INPUT_SCALE = ".scale", ".input_scale"
# Value type id -> struct format of one value.
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies. `shape` is in PyTorch's order, rows first."""

    path: Path
    shape: tuple[int, ...]
    kind: TensorType
    start: int
    n_bytes: int


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file's fields and tensors, and the mapped file; or those of a model that is split into several,
    of which `path` is the first."""

    path: Path
    fields: Mapping[str, object]
    tensors: Mapping[str, GGUFTensor]
    data: Mapping[Path, np.memmap]

    def mapped_again(self) -> GGUFFile:
        """Return this file with a mapping of its own, which goes with it."""
        return replace(self, data={path: _map(path) for path in self.data})

    def float_rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Read rows first..last-1 of a tensor as float32 [rows, width]; a vector is one row.

        A weight with a scale beside it is multiplied by it.
        Raises ValueError for a type that is not turned into floats, and a scale that is not finite.
        """
        tensor = self.tensors[name]
        if tensor.kind.floats is None:
            raise ValueError(f"{tensor.path}: {_not_read(name, tensor.kind)}")
        raw = self.data[tensor.path][tensor.start : tensor.start + tensor.n_bytes]
        rows = tensor.kind.floats(raw.reshape(math.prod(tensor.shape[:-1]), -1)[first:last])
        scale = name.removesuffix(".weight") + WEIGHT_SCALE
        return rows * self._factor(scale) if self._is_scale(scale) else rows

    def _factor(self, scale: str) -> np.float32:
        """Return the number in a weight's scale. Raises ValueError for NaN and infinity."""
        factor = self.float_rows(scale, 0, 1)[0, 0]
        if not np.isfinite(factor):
            raise ValueError(
                f"{self.tensors[scale].path}: tensor {scale} is {factor}, not a number to multiply by: use "
                "another conversion of this model"
            )
        return factor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors' shapes, without the scales of weights."""
        return {name: tensor.shape for name, tensor in self.tensors.items() if not self._is_scale(name)}

    def _is_scale(self, name: str) -> bool:
        """Tell whether a tensor is one number that belongs to the weight beside it."""
        module = name.removesuffix(INPUT_SCALE).removesuffix(WEIGHT_SCALE)
        return (
            module != name and name in self.tensors and self.tensors[name].shape == (1,)
            and f"{module}.weight" in self.tensors
        )

    def check_types(self, names: Iterable[str]) -> None:
        """Raise ValueError naming the first of `names` whose type cannot be turned into floats."""
        for name in names:
            tensor = self.tensors[name]
            if tensor.kind.floats is None:
                raise ValueError(_not_read(name, tensor.kind))

    def quantized(self, names: Iterable[str]) -> str:
        """Count the quantized ones of `names` by their types, `169 Q4_K, 32 Q6_K`; "" for none."""
        kinds = Counter(self.tensors[name].kind.name for name in names)
        return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common() if kind not in UNQUANTIZED)


def _not_read(name: str, kind: TensorType) -> str:
    return (
        f"tensor {name} has type {kind.name}, which cannot be dequantized: use another quantization of this "
        "model"
    )


def read_gguf(path: Path) -> GGUFFile:
    """Map one file and read its header.

    Raises ValueError for a file that is not GGUF or is damaged, OSError for an unreadable one.
    """
    check_content(path)
    data = _map(path)
    try:
        fields, tensors = _read_header(path, _Cursor(memoryview(data)))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}): copy or download it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return GGUFFile(path, fields, tensors, {path: data})


def _map(path: Path) -> np.memmap:
    return np.memmap(path, dtype=np.uint8, mode="c")  # private: PyTorch wants writable memory


class _Cursor:
    """A reader of values one after another; past the end it raises struct.error."""

    def __init__(self, data: memoryview):
        self.data = data
        self.at = 0

    def values(self, code: str, count: int) -> tuple:
        start = self._advance(struct.calcsize(f"<{code}") * count)
        return struct.unpack_from(f"<{count}{code}", self.data, start)

    def _advance(self, size: int) -> int:
        """Step over `size` bytes and return where they start."""
        if size > len(self.data) - self.at:
            raise struct.error(f"{size} bytes wanted at offset {self.at} of {len(self.data)}")
        self.at += size
        return self.at - size

    def value(self, code: str):
        return self.values(code, 1)[0]

    def string(self) -> str:
        size = self.value("Q")
        start = self._advance(size)
        return str(self.data[start : start + size], "utf-8")

    def field(self, kind: int) -> object:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.value(_scalar_format(kind))
        item, count = self.value("I"), self.value("Q")
        if item == STRING:
            return [self.string() for _ in range(count)]
        return list(self.values(_scalar_format(item), count))


def _scalar_format(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"value type {kind} is unknown: copy or download the file again")
    return SCALARS[kind]


def _read_header(path: Path, cursor: _Cursor) -> tuple[dict[str, object], dict[str, GGUFTensor]]:
    if bytes(cursor.data[:4]) != GGUF_MAGIC:
        raise ValueError("not a GGUF file: give a .gguf file")
    cursor.at = 4
    version = cursor.value("I")
    if version not in VERSIONS:
        raise ValueError(
            f"GGUF version {version} is not supported (big-endian files included): "
            "use a conversion of version 2 or 3"
        )
    n_tensors, n_fields = cursor.values("Q", 2)
    fields: dict[str, object] = {}
    for _ in range(n_fields):
        name = cursor.string()
        fields[name] = cursor.field(cursor.value("I"))
    infos = []
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.value("I")
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            raise ValueError(f"tensor {name} has {n_dims} dimensions: download the file again")
        dims = cursor.values("Q", n_dims)
        infos.append((name, tuple(reversed(dims)), cursor.value("I"), cursor.value("Q")))
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"general.alignment is {alignment!r}: download the file again")
    base = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise ValueError(f"tensor {name} is given twice: use another conversion")
        tensors[name] = _placed_tensor(path, name, shape, kind, base + offset, len(cursor.data))
    _check_apart(tensors)
    return fields, tensors


def _check_apart(tensors: Mapping[str, GGUFTensor]) -> None:
    """Raise ValueError for tensors that overlap: of a type that another program numbered so, and stores in
    fewer bytes."""
    in_order = sorted(tensors.items(), key=lambda item: item[1].start)
    for (name, tensor), (following, other) in pairwise(in_order):
        if tensor.start + tensor.n_bytes > other.start:
            raise ValueError(
                f"tensor {name} of type {tensor.kind.name} overlaps tensor {following}: the file is damaged, "
                "or its types are those of a changed llama.cpp; use another conversion of this model"
            )


def _placed_tensor(
    path: Path, name: str, shape: tuple[int, ...], kind: int, start: int, file_size: int
) -> GGUFTensor:
    try:
        known = tensor_type(kind)
    except ValueError as error:
        raise ValueError(
            f"tensor {name} has the unknown type {kind}: use another quantization of this model"
        ) from error
    elements = math.prod(shape)
    n_bytes = elements // known.block * known.block_bytes
    if elements == 0 or shape[-1] % known.block:
        raise ValueError(f"tensor {name} of shape {list(shape)} does not fit type {known.name}")
    if start + n_bytes > file_size:
        raise ValueError(
            f"tensor {name} ends at byte {start + n_bytes} of a file of {file_size} bytes, which "
            "is cut short: copy or download it again"
        )
    return GGUFTensor(path, shape, known, start, n_bytes)
