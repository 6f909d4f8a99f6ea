"""Find how a checkpoint is quantized, by config.json's `quantization_config`, and its matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from exporter.formats.file_tensor import Directory
from exporter.formats.prequantized.bitsandbytes import bitsandbytes_matrices
from exporter.formats.prequantized.fp4 import fp4_matrices
from exporter.formats.prequantized.gptq import GPTQ_BITS, Packing, awq_matrices, gptq_matrices
from exporter.formats.prequantized.matrix import StoredMatrix
from exporter.formats.prequantized.scaled import packed_matrices, scaled_matrices
from exporter.formats.prequantized.ternary import packed_ternary, rounded_ternary
from exporter.formats.prequantized.torchao import torchao_matrices
from exporter.formats.quantized_names import QUANTIZED_REMEDY

OF_CACHES = (".k_scale", ".v_scale")  # scales of keys and values, for caches of 8-bit floats
COMPRESSED_FORMATS = (
    None, "dense", "float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "mxfp4-pack-quantized", "nvfp4-pack-quantized",
)  # fmt: skip
BITNET_FIELDS = frozenset(
    "quant_method linear_class quantization_mode modules_to_not_convert use_rms_norm rms_norm_eps".split()
)
Fields = Mapping[str, object]
Matrices = Callable[[Directory], dict[str, StoredMatrix]]  # by module


@dataclass(frozen=True)
class Dequantized:
    """The quantized matrices of a checkpoint by the names of the weights that they stand for, and the tensors
    that are none of them."""

    matrices: Mapping[str, StoredMatrix]
    others: Directory

    def zero_biases(self) -> list[str]:
        """Name the biases of quantized matrices that are all zeros: GPTQ's tools add them to layers that have
        none."""
        biases = (name.removesuffix("weight") + "bias" for name in self.matrices)
        return [name for name in biases if name in self.others and not self.others[name].bits().any()]

    def formats(self) -> str:
        """Count the matrices by how they are stored: `28 GPTQ, 4 bits`."""
        kinds = Counter(matrix.format for matrix in self.matrices.values())
        return "; ".join(f"{n} {kind}" for kind, n in kinds.most_common())


def find_method(fields: Fields) -> Matrices:
    """Return what finds the matrices of a checkpoint with the `quantization_config` `fields`.

    Raises ValueError naming the method, or the option of it, that is not read.
    """
    method = fields.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(
            f"quantization_config {method or dict(fields)!r}: {QUANTIZED_REMEDY}; read are "
            f"{', '.join(_METHODS)}"
        )
    return _METHODS[method](fields)


def dequantized(tensors: Directory, method: Matrices) -> Dequantized:
    """Find the quantized matrices among `tensors`. Raises ValueError naming a tensor that does not fit, and
    where there is none."""
    matrices = method(tensors)
    if not matrices:
        raise ValueError(
            "quantization_config says that the weights are quantized, but none of the tensors is: remove it, "
            "or download the whole checkpoint"
        )
    parts = {name for matrix in matrices.values() for name in matrix.parts}
    others = {
        name: tensor for name, tensor in tensors.items()
        if name not in parts and not name.endswith(OF_CACHES)
    }  # fmt: skip
    return Dequantized({f"{module}.weight": matrix for module, matrix in matrices.items()}, others)


def _gptq(fields: Fields) -> Matrices:
    bits = _one_of(fields, "bits", GPTQ_BITS)
    version = _one_of(fields, "checkpoint_format", ("gptq", "gptq_v2"), "gptq")
    _only(fields, "dynamic", None, {})
    return partial(gptq_matrices, packing=Packing(bits, _group_size(fields), 1 if version == "gptq" else 0))


def _awq(fields: Fields) -> Matrices:
    _one_of(fields, "bits", (4,))
    _one_of(fields, "version", ("gemm", "GEMM"), "gemm")
    return partial(awq_matrices, packing=Packing(4, _group_size(fields)))


def _fp8(fields: Fields) -> Matrices:
    return partial(scaled_matrices, block=_block(fields.get("weight_block_size")))


def _compressed(fields: Fields) -> Matrices:
    sparsity = _object(fields, "sparsity_config").get("format", "dense")
    if sparsity != "dense":
        raise ValueError(f"quantization_config sparsity_config {sparsity!r}: {QUANTIZED_REMEDY}")
    named = _object(fields, "config_groups")
    groups = [_object(named, name) for name in named]
    for form in (fields.get("format"), *(group.get("format") for group in groups)):
        if form not in COMPRESSED_FORMATS:
            raise ValueError(f"quantization_config format {form!r}: {QUANTIZED_REMEDY}")
    weights = [_object(group, "weights") for group in groups]
    blocks = {_block(each.get("block_structure") or None) for each in weights} - {None}
    if len(blocks) > 1:
        raise ValueError(
            f"quantization_config has blocks of several sizes {sorted(blocks)}: {QUANTIZED_REMEDY}"
        )
    block = next(iter(blocks), None)
    return lambda tensors: packed_matrices(tensors) | fp4_matrices(tensors) | scaled_matrices(tensors, block)


def _bitnet(fields: Fields) -> Matrices:
    for name, value in fields.items():
        if value is not None and name not in BITNET_FIELDS:
            raise ValueError(
                f"quantization_config has {name!r} (value {value!r}), which is unknown: use a checkpoint "
                "without it, or delete it if it changes nothing"
            )
    _only(fields, "use_rms_norm", None, False)
    _only(fields, "modules_to_not_convert", None, [], ["lm_head"])
    mode = _one_of(fields, "quantization_mode", ("offline", "online"), "offline")
    kind = _one_of(fields, "linear_class", ("bitlinear", "autobitlinear"), "bitlinear")
    if mode == "offline":
        return partial(packed_ternary, inverse=kind == "bitlinear")
    _one_of(fields, "linear_class", ("autobitlinear",))
    return rounded_ternary


_METHODS: Mapping[str, Callable[[Fields], Matrices]] = {
    "gptq": _gptq, "awq": _awq, "fp8": _fp8, "compressed-tensors": _compressed,
    "mxfp4": lambda fields: fp4_matrices,
    "bitnet": _bitnet,
    # Those whose tensors say themselves what they are.
    "torchao": lambda fields: torchao_matrices, "bitsandbytes": lambda fields: bitsandbytes_matrices,
}  # fmt: skip


def _object(fields: Fields, name: str) -> Fields:
    """Return the object in a field, an empty one where it is missing or null."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"quantization_config {name} is {value!r}, not an object: correct config.json")
    return value


def _one_of(fields: Fields, name: str, known: tuple, default: object = None) -> object:
    value = fields.get(name)
    value = default if value is None else value
    if value not in known or isinstance(value, bool):
        listed = " or ".join(map(repr, known))
        raise ValueError(f"quantization_config {name} {value!r}, only {listed} is read: {QUANTIZED_REMEDY}")
    return known[known.index(value)]  # 4 for 4.0


def _group_size(fields: Fields) -> int:
    size = fields.get("group_size", fields.get("q_group_size"))
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 and size != -1:
        raise ValueError(
            f"quantization_config group_size {size!r} is no size of groups, nor -1: complete config.json"
        )
    return size


def _only(fields: Fields, name: str, *values: object) -> None:
    if fields.get(name) not in values:
        raise ValueError(f"quantization_config {name} {fields[name]!r}: {QUANTIZED_REMEDY}")


def _block(sizes: object) -> tuple[int, int] | None:
    if sizes is None:
        return None
    whole = isinstance(sizes, (list, tuple)) and len(sizes) == 2
    if not whole or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"quantization_config has blocks of {sizes!r}, not of rows and columns: correct it")
    return tuple(sizes)
