"""Read ternary matrices of Hugging Face checkpoints as floats; without torch until they are read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.checkpoint.weights import ALL_ROWS, Read, Weights
from exporter.families.sources.ternary import Ternary
from exporter.formats.tensor_types import TORCH_NAMES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS_A_BYTE = 4
SCALE = "_scale"  # behind the name of a weight
LAYERS = "model.layers."  # whose matrices are ternary; tables are not


def ternary_floats(weights: Weights, form: Ternary) -> Weights:
    """Return `weights` whose linear layers are floats: -1, 0 and 1 times a scale."""
    names = {name for name, shape in weights.shapes.items() if name.startswith(LAYERS) and len(shape) == 2}

    def read_all() -> Read:
        import torch

        from exporter.checkpoint.merge import HALF_TYPES

        read = weights.open()

        def read_one(name: str, dtype: torch.dtype | None, rows: slice = ALL_ROWS) -> Tensor:
            if name not in names:
                return read(name, dtype, rows)
            if form.packed:
                whole = _of_bytes(read, name, form.inverse)
            else:
                whole = _rounded(read, name, weights.types[name])
            own = dtype or (whole.dtype if whole.dtype in HALF_TYPES else torch.float32)
            return whole[rows].to(own, copy=rows != ALL_ROWS)

        return read_one

    scales = {f"{name}{SCALE}" for name in names} & weights.shapes.keys()
    shapes = {name: shape for name, shape in weights.shapes.items() if name not in scales}
    types = {name: kind for name, kind in weights.types.items() if name not in scales}
    if form.packed:
        for name in names:
            if f"{name}{SCALE}" not in scales or types[name] != "U8":
                raise ValueError(f"tensor {name} is not packed with a scale beside it: use another copy")
        shapes |= {name: (ROWS_A_BYTE * shapes[name][0], *shapes[name][1:]) for name in names}
        types |= dict.fromkeys(names, "F32")
    return replace(weights, shapes=shapes, types=types, open=read_all)


def _of_bytes(read: Read, name: str, inverse: bool) -> Tensor:
    """Return a matrix of bytes [N / 4, K] as float32 [N, K]: two bits each hold a weight plus 1, the lowest
    those of the first quarter of the rows."""
    import torch

    stored, scale = read(name, torch.uint8), read(f"{name}{SCALE}", torch.float32)
    quarters = [(stored >> (2 * i) & 3).float() - 1 for i in range(ROWS_A_BYTE)]
    return torch.cat(quarters) * (1 / scale if inverse else scale)


def _rounded(read: Read, name: str, stored: str) -> Tensor:
    """Return what transformers makes of a float matrix in each forward, in the type in which it is stored."""
    import torch

    weight = read(name, torch.float32)
    inverse = 1.0 / weight.abs().mean().clamp(min=1e-5)
    return ((weight * inverse).round().clamp(-1, 1) / inverse).to(getattr(torch, TORCH_NAMES[stored]))
