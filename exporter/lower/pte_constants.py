"""Write a `.pte` whose constants stay where they lie, with ExecuTorch 1.5.1.

ExecuTorch's emitter copies each constant into a Python object and tells equal ones by their SHA-256. Here
it gets that hash, 32 bytes, in place of each constant; then the program gets the constants' lengths back, and
its serializer their bytes, which it only writes. The file is what ExecuTorch alone would write.
"""

import hashlib
from collections.abc import Mapping
from typing import BinaryIO

import torch
from executorch.exir import ExecutorchBackendConfig
from executorch.exir._serialize._cord import FileBackedData
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.schema import Program
from executorch.exir.schema import Tensor as ProgramTensor
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

MOST_VALUES = 2**31 - 1  # of one dimension, which the file's format counts in int32


def take_constants(program: ExportedProgram) -> dict[str, Tensor]:
    """Replace the program's constants of one dimension by their hashes, in place; returns them by name.

    Raises ValueError for one that is longer than a `.pte` can say.
    """
    taken = {}
    for name, tensor in program.state_dict.items():
        if tensor.dim() != 1 or not len(tensor):
            continue
        if len(tensor) > MOST_VALUES:
            raise ValueError(
                f"{name} has {len(tensor)} values of type {str(tensor.dtype).removeprefix('torch.')}, and a "
                f".pte's dimension {MOST_VALUES} at most: give --output-aoti-package, or fewer bits"
            )
        taken[name] = tensor
    for name, tensor in taken.items():
        program.state_dict[name] = _hash(tensor)
    return taken


def shrink_specs(graph: GraphModule, names: Mapping[str, str], taken: Mapping[str, Tensor]) -> None:
    """Give the placeholders of `graph` for constants in `taken` the lengths of their hashes; `names` are the
    constants' by placeholder."""
    for node in graph.graph.find_nodes(op="placeholder"):
        if (tensor := taken.get(names.get(node.target, ""))) is not None:
            node.meta["spec"].shape = _hash_shape(tensor)


def write(
    program: Program, taken: Mapping[str, Tensor], config: ExecutorchBackendConfig, file: BinaryIO
) -> None:
    """Write an emitted program, with the constants in place of their hashes."""
    for plan in program.execution_plan:
        for value in plan.values:
            info = value.val.extra_tensor_info if isinstance(value.val, ProgramTensor) else None
            if info is not None and (tensor := taken.get(info.fully_qualified_name)) is not None:
                value.val.sizes = list(tensor.shape)
                program.constant_buffer[value.val.data_buffer_idx].storage = _TensorBytes(tensor)
    serialize_pte_binary(
        PTEFile(program),
        extract_delegate_segments=config.extract_delegate_segments,
        segment_alignment=config.segment_alignment,
        constant_tensor_alignment=config.constant_tensor_alignment,
        delegate_alignment=config.delegate_alignment,
    ).write_to_file(file)


class _TensorBytes(FileBackedData):
    """A tensor's bytes, as the serializer takes what is not in memory."""

    def __init__(self, tensor: Tensor):
        self._bytes = _bytes(tensor)

    def __len__(self) -> int:
        return len(self._bytes)

    def __deepcopy__(self, memo: dict) -> "_TensorBytes":
        return self

    def to_bytes(self) -> bytes:
        return bytes(self._bytes)

    def write_to_file(self, outfile: BinaryIO) -> None:
        outfile.write(self._bytes)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().contiguous().view(torch.uint8).numpy())


def _hash(tensor: Tensor) -> Tensor:
    digest = bytearray(hashlib.sha256(_bytes(tensor)).digest())
    return torch.frombuffer(digest, dtype=torch.uint8).clone().view(tensor.dtype)


def _hash_shape(tensor: Tensor) -> torch.Size:
    return torch.Size([hashlib.sha256().digest_size // tensor.element_size()])
