"""Merge adapters into parameters as they are read, in float32."""

import torch
from torch import Tensor

from exporter.checkpoint.adapters import Adaptation
from exporter.checkpoint.weights import ALL_ROWS
from exporter.formats.adapter import LowRank
from exporter.formats.file_tensor import FileTensor
from exporter.formats.tensor_types import TORCH_NAMES

HALF_TYPES = (torch.float16, torch.bfloat16)


def read_tensor(tensor: FileTensor, dtype: torch.dtype | None, rows: slice = ALL_ROWS) -> Tensor:
    """Read some rows of a tensor in `dtype`: a view of the file, mapped for it alone, where it is stored so,
    else a copy. None is the stored type where that has 16 bits, else float32."""
    stored_dtype = getattr(torch, TORCH_NAMES[tensor.dtype])
    if dtype is None:
        dtype = stored_dtype if stored_dtype in HALF_TYPES else torch.float32
    return torch.from_numpy(tensor.bits()).view(stored_dtype)[rows].to(dtype)


def replaced(change: Adaptation) -> Tensor:
    """Read the whole tensor that a parameter is replaced by, in float32."""
    return read_tensor(change.replaced, torch.float32, change.rows) + change.offset


def merged(weight: Tensor, change: Adaptation) -> Tensor:
    """Add factor · B · A of each adapter to `weight`, float32, in place: its memory is its own, or a private
    mapping."""
    for low_rank in change.added:
        _add(weight, low_rank)
    return weight


def _add(weight: Tensor, low_rank: LowRank) -> None:
    b, a = (read_tensor(half, torch.float32) for half in (low_rank.b, low_rank.a))
    if low_rank.transposed:
        weight.t().addmm_(b, a[:, low_rank.rows], alpha=low_rank.factor)
    else:
        weight.addmm_(b[low_rank.rows], a, alpha=low_rank.factor)
