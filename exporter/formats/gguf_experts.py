"""Take the experts' matrices in a GGUF file apart: a layer's are one tensor, the expert its first index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from exporter.formats.gguf_file import GGUFFile, GGUFTensor

# Matrices, and numbers of each beside them: biases, and NVFP4's scales of weights and of activations.
_OF_ALL = re.compile(r"(.+_exps)\.(weight|bias|scale|input_scale)")
_NUMBERS = ("scale", "input_scale")  # one for each expert


def with_experts(file: GGUFFile, most: int) -> GGUFFile:
    """Return the file with tensors `blk.0.ffn_up_exps.7.weight` in place of `blk.0.ffn_up_exps.weight`, and
    likewise an expert's `.bias`, and `.scale`, one number.

    Raises ValueError naming a tensor of more than `most` experts, and one that the file also has apart.
    """
    found: dict[str, GGUFTensor] = {}
    for name, tensor in file.tensors.items():
        if not _is_of_all(name, tensor, file.tensors):
            found[name] = tensor
            continue
        if tensor.shape[0] > most:
            raise ValueError(
                f"{tensor.path}: tensor {name} is of {tensor.shape[0]} experts, and at most {most} are read: "
                "use another conversion of this model"
            )
        for own, part in _parts(name, tensor):
            if own in file.tensors:
                raise ValueError(
                    f"{tensor.path}: tensor {own} is also a part of {name}: use another conversion of this "
                    "model"
                )
            found[own] = part
    return replace(file, tensors=found)


def _is_of_all(name: str, tensor: GGUFTensor, tensors: Mapping[str, GGUFTensor]) -> bool:
    """Tell whether a tensor holds something of each expert."""
    named = _OF_ALL.fullmatch(name)
    if named is None or named[2] not in _NUMBERS:
        return named is not None and len(tensor.shape) > 1
    weight = tensors.get(f"{named[1]}.weight")
    return weight is not None and tensor.shape == weight.shape[:1] and tensor.kind.block == 1


def _parts(name: str, tensor: GGUFTensor) -> Iterator[tuple[str, GGUFTensor]]:
    """Yield each expert's part and its name."""
    module, _, kind = name.rpartition(".")
    shape, size = tensor.shape[1:] or (1,), tensor.n_bytes // tensor.shape[0]
    for i in range(tensor.shape[0]):
        part = replace(tensor, shape=shape, start=tensor.start + i * size, n_bytes=size)
        yield f"{module}.{i}.{kind}", part
