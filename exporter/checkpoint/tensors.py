"""Read a checkpoint's tensors into PyTorch, from mapped files of every format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from exporter.checkpoint.adapters import Adaptation
from exporter.checkpoint.merge import merged, read_tensor, replaced
from exporter.checkpoint.weights import ALL_ROWS, Read, Weights
from exporter.formats.file_tensor import FileTensor
from exporter.formats.gguf_file import GGUFFile
from exporter.formats.prequantized.matrix import StoredMatrix
from exporter.model.config import ModelConfig
from exporter.model.matrices import last_norm
from exporter.util.progress import Report, at_most_once_a_second

READERS = 2  # tensors converted at a time; more would hold more memory for little gain
VALUES_AT_ONCE = 1 << 24  # float32 values of a GGUF tensor dequantized at a time: 64 MiB


def canonical_state_dict(
    weights: Weights,
    config: ModelConfig,
    dtype: torch.dtype | None,
    names: Sequence[str],
    changes: Mapping[str, Adaptation],
    progress: Report,
) -> dict[str, Tensor]:
    """Read the parameters `names`, canonical ones, in `dtype`, a few converted at a time, those in `changes`
    as adapters change them; with None, matrices as `Weights.open` says and vectors in float32."""
    report = at_most_once_a_second(progress)
    open_tensor, places = weights.open(), weights.places(config)
    last = {vector.parameter for vector in last_norm(config)}

    def read(name: str) -> Tensor:
        change = changes.get(name)
        if change is None:
            return unchanged(name, dtype)
        if change.replaced is None:
            weight = unchanged(name, torch.float32)
        else:
            weight = replaced(change) * (config.logit_scale if name in last else 1.0)
        return merged(weight, change).to(dtype or torch.float32)

    def unchanged(name: str, dtype: torch.dtype | None) -> Tensor:
        (stored, rows), names = places[name], weights.names
        own = torch.float32 if dtype is None and len(weights.shapes[stored]) == 1 else dtype
        offset = names.norm_offset if name.endswith("norm.weight") else 0.0
        scale = config.logit_scale if name in last else 1.0
        if offset or scale != 1:
            return ((open_tensor(stored, torch.float32, rows) + offset) * scale).to(own)
        tensor = open_tensor(stored, own, rows)
        if names.interleaved and name.split(".")[-2] in ("wq", "wk"):
            spec = config.layers[int(name.split(".")[1])].attention
            # Rows of a head that do not turn, and weights of its norm, would have to move with the others.
            assert spec.qk_norm is None and (spec.rope is None or spec.rope.width == spec.head_dim)
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

    def read(name: str, dtype: torch.dtype | None, rows: slice = ALL_ROWS) -> Tensor:
        if dims.get(name) is None:
            return read_tensor(tensors[name][0], dtype, rows)
        return torch.cat([read_tensor(part, dtype, ALL_ROWS) for part in tensors[name]], dims[name])[rows]

    return read


def open_dequantized(matrices: Mapping[str, StoredMatrix], plain: Read) -> Read:
    """Make a function that reads quantized matrices as the floats that they stand for, and others by
    `plain`. It raises ValueError naming a matrix that stands for NaN or infinity."""

    def read(name: str, dtype: torch.dtype | None, rows: slice = ALL_ROWS) -> Tensor:
        if name not in matrices:
            return plain(name, dtype, rows)
        with np.errstate(all="ignore"):  # what comes of it is said below
            values = matrices[name].floats()
        if not np.isfinite(values).all():
            raise ValueError(
                f"tensor {name} stands for NaN or infinity, by its scales or their table: download it again, "
                "or use another copy"
            )
        # A copy of some rows does not hold the whole matrix.
        whole = torch.from_numpy(values)
        return whole[rows].to(dtype or torch.float32, copy=rows != ALL_ROWS)

    return read


def open_gguf(file: GGUFFile) -> Read:
    """Make a function that reads tensors of a GGUF file, over a mapping of its own."""
    return partial(_read_gguf_tensor, file.mapped_again())


def _read_gguf_tensor(
    file: GGUFFile, name: str, dtype: torch.dtype | None, rows: slice = ALL_ROWS
) -> Tensor:
    """Read some rows of a tensor in `dtype`, None being float32; beside the result only a block of rows is
    held in float32."""
    shape = file.tensors[name].shape
    if len(shape) == 1:  # a vector, which is one row to `float_rows`
        return torch.from_numpy(file.float_rows(name, 0, 1)[0])[rows].to(dtype or torch.float32)
    begin, end, _ = rows.indices(shape[0])
    per_row, width = math.prod(shape[1:-1]), shape[-1]
    first, last = begin * per_row, end * per_row
    step = max(1, VALUES_AT_ONCE // width)
    result = torch.empty(last - first, width, dtype=dtype)
    for at in range(first, last, step):
        block = file.float_rows(name, at, min(at + step, last))
        result[at - first : at - first + len(block)] = torch.from_numpy(block)
    return result.reshape(end - begin, *shape[1:])
