"""Tell which method quantized a checkpoint by the names that it gives its tensors.

Sources: the serialized forms of AutoGPTQ and AutoAWQ, bitsandbytes, compressed-tensors, HQQ, quanto, MLX,
and the scales beside 8-bit floats of DeepSeek's and transformers' checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from exporter.formats.tensor_types import TORCH_NAMES

# The ends of names that only this method uses; the first method that fits counts.
_ENDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("GPTQ or AWQ", (".qweight", ".qzeros")),
    ("bitsandbytes", (".absmax", ".quant_map", ".nested_absmax", ".SCB", ".weight_format")),
    ("compressed-tensors", (".weight_packed", ".weight_shape", ".weight_zero_point")),
    ("HQQ", (".W_q",)),
    ("quanto", (".weight._data", ".weight._scale")),
    ("8-bit floats with scales", (".weight_scale_inv", ".weight_scale", ".input_scale")),
    ("MLX", (".scales",)),
)
# Of the names of safetensors' types.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
SMALL_FLOATS = ("F8_", "F6_", "F4")
QUANTIZED_REMEDY = (
    "weights that are quantized so are not read: use the checkpoint in its original precision, and choose a "
    "scheme with --quantize"
)


def refuse_quantized(names: Iterable[str]) -> None:
    """Raise ValueError naming the method and a tensor where `names` are those of quantized weights."""
    names = tuple(names)
    for method, endings in _ENDINGS:
        found = next((name for name in names if name.endswith(endings)), None)
        if found is not None:
            raise ValueError(f"holds weights quantized by {method} ({found}): {QUANTIZED_REMEDY}")


def refuse_other_types(types: Iterable[tuple[str, str]], expected: Collection[str]) -> None:
    """Raise ValueError naming the first of the (name, type)s whose type holds no floats of 16 bits or
    more and whose name is `expected`."""
    for name, kind in types:
        if name in expected and kind not in FLOATS:
            what = "floats of less than 16 bits" if kind.startswith(SMALL_FLOATS) else "not floats"
            raise ValueError(f"tensor {name} holds {TORCH_NAMES.get(kind, kind)}, {what}: {QUANTIZED_REMEDY}")
