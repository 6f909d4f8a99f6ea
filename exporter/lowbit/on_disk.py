"""Keep packed weights in files until they are written, so that a machine needs no memory for all of them.

A file has no name once its tensor is there: it goes with the tensor or with the process, however that ends.
"""

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from exporter.util.files import disk_full_named

Keep = Callable[[Tensor], Tensor]  # of packed bytes [n]: the same bytes, where they stay
LEAST_BYTES = 1 << 16  # bytes: below, a file and its mapping are not worth it


def in_memory(tensor: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return tensor


def on_disk(folder: Path) -> Keep:
    """Make a function that moves a tensor into a file of `folder` and returns it mapped from there.

    The function raises OSError that names `folder` where the disk is full.
    """

    def keep(tensor: Tensor) -> Tensor:
        size = tensor.nbytes
        if size < LEAST_BYTES:
            return tensor
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        with (
            disk_full_named(str(folder)),
            tempfile.NamedTemporaryFile(dir=folder, prefix=".weights-") as file,
        ):
            file.write(memoryview(content))
            file.flush()
            # Private: PyTorch asks for memory that may be written to, and nobody does.
            mapped = torch.from_file(file.name, shared=False, size=size, dtype=torch.uint8)
        return_freed_memory()
        return mapped.view(tensor.dtype).view(tensor.shape)

    return keep


def return_freed_memory() -> None:
    """Give freed memory back to the system where glibc allocates it, which keeps pieces of up to 32 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
