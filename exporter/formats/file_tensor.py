"""Describe a tensor in a file, of which only the place is known: nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.formats.tensor_types import ITEM_BYTES


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file: `start` is a byte of the file, which had `file_bytes` when its directory was read;
    `strides` count elements; `dtype` is as safetensors names it."""

    path: Path
    file_bytes: int
    dtype: str
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]

    def bits(self) -> np.ndarray:
        """Map the elements' bits as unsigned integers of `shape`, privately.

        Raises ValueError for a file that has changed since, KeyError for a dtype not in `ITEM_BYTES`.
        """
        now = self.path.stat().st_size
        if now != self.file_bytes:
            raise ValueError(
                f"{self.path} has changed since it was opened: it had {self.file_bytes} bytes, now {now}"
            )
        size = ITEM_BYTES[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, f"u{size}")
        steps = zip(self.shape, self.strides, strict=True)
        n_elements = 1 + sum((count - 1) * stride for count, stride in steps)
        # Private ("c") because PyTorch wants writable memory.
        data = np.memmap(self.path, np.uint8, "c", self.start, size * n_elements)
        return np.ndarray(self.shape, f"u{size}", data, 0, tuple(size * stride for stride in self.strides))


    def numbers(self) -> list[float]:
        """Read the elements of a small tensor, [] where they are no floats."""
        bits = self.bits().reshape(-1)
        if self.dtype == "BF16":
            bits = bits.astype(np.uint32) << 16
        elif self.dtype not in ("F16", "F32", "F64"):
            return []
        return bits.view(f"f{bits.itemsize}").tolist()


Directory = Mapping[str, FileTensor]


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a tensor whose rows follow one another."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def same_bits(first: FileTensor, second: FileTensor) -> bool:
    """Tell whether two matrices hold the same; those that differ mostly do so in the first row."""
    if first == second:
        return True
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    a, b = first.bits(), second.bits()
    return np.array_equal(a[:1], b[:1]) and np.array_equal(a, b)
