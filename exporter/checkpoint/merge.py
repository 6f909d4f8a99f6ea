"""Merge adapters into parameters as they are read, in float32."""

import torch
from torch import Tensor

from exporter.checkpoint.adapters import Adaptation
from exporter.formats.adapter import LowRank
from exporter.formats.file_tensor import FileTensor
from exporter.formats.tensor_types import TORCH_NAMES


def read_tensor(tensor: FileTensor, dtype: torch.dtype) -> Tensor:
    """Read a tensor in `dtype`: a view of the file, mapped for it alone, where it is stored so, else a
    copy."""
    stored_dtype = getattr(torch, TORCH_NAMES[tensor.dtype])
    return torch.from_numpy(tensor.bits()).view(stored_dtype).to(dtype)


def replaced(change: Adaptation) -> Tensor:
    """Read the whole tensor that a parameter is replaced by, in float32."""
    return read_tensor(change.replaced, torch.float32) + change.offset


def merged(weight: Tensor, change: Adaptation) -> Tensor:
    """Add factor · B · A of each adapter to `weight`, float32, in place: its memory is its own, or a private
    mapping."""
    for low_rank in change.added:
        _add(weight, low_rank)
    return weight


def _add(weight: Tensor, low_rank: LowRank) -> None:
    b, a = (read_tensor(half, torch.float32) for half in (low_rank.b, low_rank.a))
    target = weight.t() if low_rank.transposed else weight
    target.addmm_(b, a, alpha=low_rank.factor)
