"""GGUF metadata of the llama architecture to `ModelConfig`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from exporter.model.config import ModelConfig, RopeScaling

READ = frozenset(
    """attention.head_count attention.head_count_kv attention.key_length
    attention.layer_norm_rms_epsilon attention.sliding_window attention.value_length block_count
    context_length embedding_length feed_forward_length rope.dimension_count rope.freq_base
    rope.scaling.factor rope.scaling.type""".split()
)
# The vocabulary follows from the tensors.
HARMLESS = frozenset(
    """rope.scaling.finetuned rope.scaling.original_context_length tensor_data_layout
    vocab_size""".split()
)
# Fields whose other values change the computation.
NEUTRAL: dict[str, object] = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.attn_factor": 1.0,
    "use_parallel_residual": False,
}


def from_gguf(
    fields: Mapping[str, object],
    *,
    vocab_size: int,
    tied_embeddings: bool,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    rope_factors: Sequence[float] | None,
) -> ModelConfig:
    """Reads `fields`; the keyword arguments are what the tensors show.

    `rope_factors` is the content of the tensor `rope_freqs.weight`, if there is one.
    """
    if fields.get("general.type", "model") != "model":
        raise ValueError(
            f"general.type is {fields['general.type']!r}, not a whole model: give the model that it belongs "
            "to, with an adapter merged into it"
        )
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise ValueError(
            f"general.architecture {architecture!r} is not supported: use a file of architecture "
            "'llama'"
        )
    if fields.get("split.count", 1) not in (0, 1):
        raise ValueError(
            f"the model is split into {fields['split.count']} files: join them with "
            "`llama-gguf-split --merge` first"
        )
    own = {
        name.removeprefix("llama."): value
        for name, value in fields.items()
        if name.startswith("llama.")
    }
    _refuse_unknown_fields(own)
    dim, heads = _count(own, "embedding_length"), _count(own, "attention.head_count")
    head_dim = _count(own, "attention.key_length", dim // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if _count(own, name, head_dim) != head_dim:
            raise ValueError(
                f"llama.{name} is {own[name]!r}, but only the head size {head_dim} is supported: "
                "use a checkpoint with that value"
            )
    theta = float(own.get("rope.freq_base") or 10000.0)
    context = _count(own, "context_length")
    return ModelConfig(
        family="llama",
        dim=dim,
        n_layers=_count(own, "block_count"),
        n_heads=heads,
        n_kv_heads=_count(own, "attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden_dim=_count(own, "feed_forward_length"),
        vocab_size=vocab_size,
        norm_eps=own.get("attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(own, head_dim, theta, context, rope_factors),
        context_length=context,
        tied_embeddings=tied_embeddings,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        sliding_window=own.get("attention.sliding_window") or None,
    )


def llama3_divisors(scaling: RopeScaling, head_dim: int, rope_theta: float) -> list[float]:
    """The `head_dim / 2` numbers by which `scaling` divides the rotary frequencies.

    Llama 3.1's formula (`apply_scaling` in Meta's llama-models) as llama.cpp's converter stores it.
    """
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope_theta ** (2 * pair / head_dim)
        turns = scaling.original_context_length / wavelength
        span = scaling.high_freq_factor - scaling.low_freq_factor
        kept = min(max((turns - scaling.low_freq_factor) / span, 0.0), 1.0)
        divisors.append(1.0 / ((1.0 - kept) / scaling.factor + kept))
    return divisors


def _refuse_unknown_fields(own: Mapping[str, object]) -> None:
    for name, value in own.items():
        if name in READ | HARMLESS:
            continue
        if name not in NEUTRAL:
            raise ValueError(
                f"field 'llama.{name}' (value {value!r}) is unknown and may change the "
                "computation: use a checkpoint without it"
            )
        if value != NEUTRAL[name]:
            raise ValueError(
                f"field 'llama.{name}' is {value!r}, but only {NEUTRAL[name]!r} is supported: "
                "use a checkpoint with that value"
            )


def _rope_scaling(
    own: Mapping[str, object],
    head_dim: int,
    theta: float,
    context: int,
    factors: Sequence[float] | None,
) -> RopeScaling | None:
    kind = own.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise ValueError(
            f"llama.rope.scaling.type {kind!r} is not supported: use a checkpoint with 'linear' "
            "or none"
        )
    if kind == "linear" and factors is not None:
        raise ValueError(
            "both llama.rope.scaling.type 'linear' and the tensor rope_freqs.weight are given: "
            "use a checkpoint with one of them"
        )
    if kind == "linear":
        return RopeScaling("linear", own.get("rope.scaling.factor"))
    if factors is None or all(factor == 1.0 for factor in factors):
        return None
    return _fit_llama3(factors, head_dim, theta, context)


def _fit_llama3(factors: Sequence[float], head_dim: int, theta: float, context: int) -> RopeScaling:
    """The scaling that `factors` came from.

    Its `factor` is the largest of them; the original context is a power of two below the present
    one; low 1 and high 4 are the same in all Llama 3 models. Whatever gives these numbers is right.
    """
    if len(factors) == head_dim // 2 and max(factors) > 1.0:
        original = 1
        while original <= context:
            scaling = RopeScaling("llama3", max(factors), original_context_length=original)
            expected = llama3_divisors(scaling, head_dim, theta)
            pairs = zip(factors, expected, strict=True)
            if all(math.isclose(a, b, rel_tol=1e-4) for a, b in pairs):
                return scaling
            original *= 2
    raise ValueError(
        "the tensor rope_freqs.weight does not hold Llama 3 rope scaling, the only kind known: "
        "use the Hugging Face form of this checkpoint"
    )


def _count(own: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = own.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(
            f"field 'llama.{name}' is {value!r}, not a positive whole number: use another "
            "conversion of this checkpoint"
        )
    return value
