"""A rotation as config.json describes it: `rope_parameters`, or the older `rope_scaling`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from exporter.model.config import Rope, RopeScaling, is_positive

ORIGINAL = "original_max_position_embeddings"
# Of each type, the parameters that it may have. `finetuned` changes nothing.
KEYS = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor", ORIGINAL}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", ORIGINAL}),
    "yarn": frozenset(
        "factor attention_factor mscale mscale_all_dim beta_fast beta_slow truncate finetuned".split()
    ) | {ORIGINAL},
    "longrope": frozenset("factor attention_factor short_factor long_factor".split()) | {ORIGINAL},
}  # fmt: skip
_SHARED = frozenset({"rope_theta", "rope_type", "type", "partial_rotary_factor"})


def read_rope(
    rope: Mapping[str, object], width: int, default_theta: object, longest: object, original: object
) -> Rope:
    """Read one rotation of `width` elements, whose fields are `rope`. `longest` and `original` are
    config.json's own max_position_embeddings and original_max_position_embeddings, None where missing.

    Raises ValueError naming a field that is missing, wrong, or of another type of rotation.
    """
    theta = rope.get("rope_theta") if rope.get("rope_theta") is not None else default_theta
    kind = rope.get("rope_type", rope.get("type", "default"))
    kind = "longrope" if kind == "su" else kind  # its first name
    if not isinstance(kind, str) or kind not in KEYS:
        raise ValueError(f"rope type {kind!r} is not supported: use a checkpoint with {', '.join(KEYS)}")
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(
            f"partial_rotary_factor is {rope['partial_rotary_factor']!r}, but only 1.0 is "
            "supported: use a checkpoint that rotates whole heads"
        )
    for name, value in rope.items():
        if value is not None and name not in KEYS[kind] | _SHARED:
            raise ValueError(
                f"rope parameter {name!r} (value {value!r}) does not belong to rope type {kind!r}: "
                "use a checkpoint without it, or delete it if it changes nothing"
            )
    if kind == "dynamic":
        # It stretches contexts beyond max_position_embeddings, and none of ours is longer.
        required(rope, "factor")
    if kind in ("default", "dynamic"):
        return Rope(theta, width)
    return Rope(theta, width, _scaling(kind, rope, longest, original))


def _scaling(kind: str, rope: Mapping[str, object], longest: object, original: object) -> RopeScaling:
    if kind == "linear":
        return RopeScaling("linear", required(rope, "factor"))
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=required(rope, "factor"),
            low_freq_factor=required(rope, "low_freq_factor"),
            high_freq_factor=required(rope, "high_freq_factor"),
            original_context_length=required(rope, ORIGINAL),
        )
    # Phi-3's stands outside, and goes before, as in transformers.
    context = next((c for c in (original, rope.get(ORIGINAL), longest) if c is not None), None)
    factor = rope.get("factor")
    if factor is None:
        factor = _ratio(longest, context)
    if not is_positive(factor):
        raise ValueError(f"rope parameter 'factor' is {factor!r}, not a positive number: correct the config")
    if kind == "yarn":
        return RopeScaling(
            kind="yarn",
            factor=factor,
            original_context_length=context,
            beta_fast=rope.get("beta_fast") or 32.0,
            beta_slow=rope.get("beta_slow") or 1.0,
            truncate=True if rope.get("truncate") is None else rope["truncate"],
            attention_factor=_given(rope, yarn_attention_factor(
                factor, rope.get("mscale"), rope.get("mscale_all_dim")
            )),
        )  # fmt: skip
    return RopeScaling(
        kind="longrope",
        original_context_length=context,
        short_factors=_numbers(rope, "short_factor"),
        long_factors=_numbers(rope, "long_factor"),
        attention_factor=_given(rope, longrope_attention_factor(factor, context)),
    )


def yarn_attention_factor(factor: float, mscale: object = None, mscale_all_dim: object = None) -> float:
    """Return what YaRN multiplies cosines and sines by where nobody says it (arXiv 2309.00071, and DeepSeek's
    two scales). Raises ValueError for a scale that is no number."""

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    for name, value in (("mscale", mscale), ("mscale_all_dim", mscale_all_dim)):
        if value and not is_positive(value):
            raise ValueError(f"rope parameter {name!r} is {value!r}, not a number: correct the config")
    return grown(mscale) / grown(mscale_all_dim) if mscale and mscale_all_dim else grown(1.0)


def longrope_attention_factor(factor: float, original: object) -> float:
    """Return what LongRoPE multiplies cosines and sines by where nobody says it (arXiv 2402.13753). Raises
    ValueError for an original context that is no count above 1."""
    if factor <= 1:
        return 1.0
    if not is_positive(original) or original <= 1:
        raise ValueError(f"field {ORIGINAL!r} is {original!r}, not a context's length: correct the config")
    return math.sqrt(1 + math.log(factor) / math.log(original))


def _given(rope: Mapping[str, object], otherwise: float) -> float:
    value = rope.get("attention_factor")
    return otherwise if value is None else value


def _ratio(longest: object, original: object) -> object:
    return longest / original if is_positive(longest) and is_positive(original) else None


def _numbers(rope: Mapping[str, object], name: str) -> tuple[float, ...]:
    values = required(rope, name)
    if not isinstance(values, list) or not all(map(is_positive, values)):
        raise ValueError(f"rope parameter {name!r} is no list of positive numbers: correct the config")
    return tuple(map(float, values))


def required(fields: Mapping[str, object], name: str) -> object:
    """Return the field's value. Raises ValueError when it is missing or null."""
    if fields.get(name) is None:
        raise ValueError(f"field {name!r} is missing: complete the config or download it again")
    return fields[name]
