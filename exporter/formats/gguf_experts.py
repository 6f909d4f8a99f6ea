"""Take the experts' matrices in a GGUF file apart: a layer's are one tensor, the expert its first index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from exporter.formats.gguf_file import GGUFFile, GGUFTensor

_OF_ALL = re.compile(r"(.+_exps)\.(weight|bias)")


def with_experts(file: GGUFFile) -> GGUFFile:
    """Return the file with tensors `blk.0.ffn_up_exps.7.weight` in place of `blk.0.ffn_up_exps.weight`."""
    return replace(file, tensors=_split(file.tensors))


def _split(tensors: Mapping[str, GGUFTensor]) -> dict[str, GGUFTensor]:
    found: dict[str, GGUFTensor] = {}
    for name, tensor in tensors.items():
        of_all = _OF_ALL.fullmatch(name)
        if of_all is None or len(tensor.shape) < 2:
            found[name] = tensor
            continue
        count, *shape = tensor.shape
        size = tensor.n_bytes // count
        for i in range(count):
            part = replace(tensor, shape=tuple(shape), start=tensor.start + i * size, n_bytes=size)
            found[f"{of_all[1]}.{i}.{of_all[2]}"] = part
    return found
