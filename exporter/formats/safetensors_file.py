"""Read from the header of a safetensors file which tensors it holds, and where, without torch."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from exporter.formats.file_kind import check_content
from exporter.formats.file_tensor import Directory, FileTensor, contiguous_strides

LENGTH_BYTES = 8  # of the header's length, little-endian, with which the file begins
METADATA_KEY = "__metadata__"


def read_directory(path: Path) -> Directory:
    """Return the file's tensors by name; those that `safetensors.torch.save_model` left out because they
    share another's memory are there under both names.

    Raises ValueError for a file that is empty, damaged or something else, OSError for one that cannot be
    read.
    """
    check_content(path)
    try:
        with safe_open(path, framework="np"):
            pass  # checks the header, and that what it describes is the whole file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): download it again") from error
    length, header = _header(path)
    file_bytes = path.stat().st_size
    shared = header.pop(METADATA_KEY, None) or {}
    tensors = {
        name: FileTensor(
            path, file_bytes, entry["dtype"], tuple(entry["shape"]),
            LENGTH_BYTES + length + entry["data_offsets"][0], contiguous_strides(tuple(entry["shape"])),
        )
        for name, entry in header.items()
    }  # fmt: skip
    return tensors | {
        left_out: tensors[kept]
        for left_out, kept in shared.items()
        if left_out not in tensors and kept in tensors
    }


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts that a file's writer added to it, of a file that `read_directory` has read."""
    return _header(path)[1].get(METADATA_KEY) or {}


def _header(path: Path) -> tuple[int, dict]:
    """Return the length of a file's header, and what it says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        return length, json.loads(file.read(length))
