"""Read a checkpoint's tensors into PyTorch, from mapped files of every format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from exporter.checkpoint.adapters import Adaptation
from exporter.checkpoint.merge import merged, read_tensor, replaced
from exporter.checkpoint.weights import Read, Weights
from exporter.formats.file_tensor import FileTensor
from exporter.formats.gguf_file import GGUFFile
from exporter.formats.prequantized.matrix import StoredMatrix
from exporter.model.config import ModelConfig
from exporter.util.progress import Report, at_most_once_a_second

READERS = 2  # tensors converted at a time; more would hold more memory for little gain
VALUES_AT_ONCE = 1 << 24  # float32 values of a GGUF tensor dequantized at a time: 64 MiB


def canonical_state_dict(
    weights: Weights,
    config: ModelConfig,
    dtype: torch.dtype,
    names: Sequence[str],
    changes: Mapping[str, Adaptation],
    progress: Report,
) -> dict[str, Tensor]:
    """Read the parameters `names`, canonical ones, in `dtype`, a few converted at a time; those in `changes`
    as adapters change them."""
    report = at_most_once_a_second(progress)
    open_tensor = weights.open()

    def read(name: str) -> Tensor:
        change = changes.get(name)
        if change is None:
            return unchanged(name, dtype)
        weight = unchanged(name, torch.float32) if change.replaced is None else replaced(change)
        return merged(weight, change).to(dtype)

    def unchanged(name: str, dtype: torch.dtype) -> Tensor:
        stored, names = weights.stored_name(name), weights.names
        if names.norm_offset and name.endswith("norm.weight"):
            return (open_tensor(stored, torch.float32) + names.norm_offset).to(dtype)
        tensor = open_tensor(stored, dtype)
        if names.interleaved and name.split(".")[-2] in ("wq", "wk"):
            spec = config.layers[int(name.split(".")[1])].attention
            # Rows of a head that do not turn, and weights of its norm, would have to move with the others.
            assert spec.qk_norm is None and spec.rope is not None and spec.rope.width == spec.head_dim
            tensor = half_split(tensor, spec.head_dim)
        return tensor

    state = {}
    with ThreadPoolExecutor(READERS) as pool:
        for name, tensor in zip(names, pool.map(read, names), strict=True):
            state[name] = tensor
            report(f"reading weights: {len(state)} of {len(names)} tensors")
    return state


def half_split(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder each head's rows from pairs (2j, 2j + 1) to pairs (j, j + head_dim / 2).

    `rows` is the weight [heads * head_dim, dim] or bias [heads * head_dim] of wq or wk. Hugging
    Face's convert_llama_weights_to_hf.py does the same to Meta's weights, and llama.cpp's converter
    undoes it.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def open_tensors(tensors: Mapping[str, Sequence[FileTensor]], dims: Mapping[str, int | None]) -> Read:
    """Make a function that reads tensors that lie in one part or, joined along the dimension in `dims`, in
    several."""

    def read(name: str, dtype: torch.dtype) -> Tensor:
        parts = [read_tensor(part, dtype) for part in tensors[name]]
        return parts[0] if dims.get(name) is None else torch.cat(parts, dims[name])

    return read


def open_dequantized(matrices: Mapping[str, StoredMatrix], plain: Read) -> Read:
    """Make a function that reads quantized matrices as the floats that they stand for, and others by
    `plain`."""

    def read(name: str, dtype: torch.dtype) -> Tensor:
        if name not in matrices:
            return plain(name, dtype)
        return torch.from_numpy(matrices[name].floats()).to(dtype)

    return read


def open_gguf(file: GGUFFile) -> Read:
    """Make a function that reads tensors of a GGUF file, over a mapping of its own."""
    return partial(_read_gguf_tensor, file.mapped_again())


def _read_gguf_tensor(file: GGUFFile, name: str, dtype: torch.dtype) -> Tensor:
    """Read a tensor in `dtype`; beside the result only a block of rows is held in float32."""
    shape = file.tensors[name].shape
    rows, width = math.prod(shape[:-1]), shape[-1]
    step = max(1, VALUES_AT_ONCE // width)
    result = torch.empty(rows, width, dtype=dtype)
    for first in range(0, rows, step):
        block = file.float_rows(name, first, first + step)
        result[first : first + step] = torch.from_numpy(block)
    return result.reshape(shape)
