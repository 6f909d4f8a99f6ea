"""Hugging Face `config.json` to `ModelConfig`.

Absent fields take the defaults of transformers' LlamaConfig and MistralConfig. A field that is
neither read nor known to be harmless is refused by name: it may change the computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.formats.quantized_names import REMEDY
from exporter.model.config import ModelConfig, RopeScaling
from exporter.model.generation_settings import KEYS as GENERATION_KEYS


@dataclass(frozen=True)
class Architecture:
    """What one `architectures` entry reads beyond the common fields.

    `required` holds fields that are accepted with that one value only.
    """

    family: str
    default_kv_heads: int | None
    default_context: int
    biases: bool = False
    default_window: int | None = None
    required: Mapping[str, object] = field(default_factory=dict)


ARCHITECTURES = {
    # `sliding_window` is ignored by transformers' Llama; a config that sets it means another model.
    "LlamaForCausalLM": Architecture("llama", None, 2048, biases=True),
    "MistralForCausalLM": Architecture(
        "mistral",
        8,
        131072,
        default_window=4096,
        required={"attention_bias": False, "mlp_bias": False},
    ),
}

READ = frozenset(
    """architectures head_dim hidden_size intermediate_size max_position_embeddings
    num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters
    rope_scaling rope_theta tie_word_embeddings vocab_size""".split()
)

# Fields whose other values change the computation.
NEUTRAL: dict[str, object] = {
    "hidden_act": "silu",
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
}

# Training, bookkeeping, token ids. `pretraining_tp` splits matrix products into slices and sums the
# same terms. Generation settings of older versions are model/generation_settings.py's.
HARMLESS = GENERATION_KEYS | frozenset(
    """_attn_implementation _attn_implementation_autoset _flash_attn_2_enabled _name_or_path
    attention_dropout chunk_size_feed_forward cross_attention_hidden_size dtype finetuning_task
    id2label initializer_range is_decoder is_llama_config label2id max_sequence_length
    model_type prefix pretraining_tp problem_type return_dict sep_token_id task_specific_params
    tf_legacy_loss tokenizer_class torch_dtype torchscript transformers.js_config unsloth_fixed
    unsloth_version use_bfloat16""".split()
)

ROPE_KEYS = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset(
        {
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        }
    ),
}


def from_hf(config: Mapping[str, object]) -> ModelConfig:
    """Reads the content of a `config.json`, in the spelling of transformers 4 or 5."""
    architecture = _architecture(config)
    _refuse_unknown_fields(config, architecture)
    heads = _required(config, "num_attention_heads")
    dim = _required(config, "hidden_size")
    head_dim = _optional(config, "head_dim", None)
    if head_dim is None:
        head_dim = _whole_division(dim, heads)
    attention_bias = _optional(config, "attention_bias", False)
    theta, scaling = _rope(config)
    return ModelConfig(
        family=architecture.family,
        dim=dim,
        n_layers=_required(config, "num_hidden_layers"),
        n_heads=heads,
        n_kv_heads=_optional(config, "num_key_value_heads", architecture.default_kv_heads or heads),
        head_dim=head_dim,
        hidden_dim=_required(config, "intermediate_size"),
        vocab_size=_required(config, "vocab_size"),
        norm_eps=_optional(config, "rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        context_length=_optional(config, "max_position_embeddings", architecture.default_context),
        tied_embeddings=_optional(config, "tie_word_embeddings", False),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=_optional(config, "mlp_bias", False),
        # An explicit null switches the window off; an absent field has the class's default.
        sliding_window=config.get("sliding_window", architecture.default_window),
    )


def _architecture(config: Mapping[str, object]) -> Architecture:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if name not in ARCHITECTURES:
        raise ValueError(
            f"architectures {names!r} is not supported: use a checkpoint of "
            f"{' or '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _refuse_unknown_fields(config: Mapping[str, object], architecture: Architecture) -> None:
    quantized = config.get("quantization_config") or config.get("quantization")  # the latter: MLX
    if quantized is not None:
        method = quantized.get("quant_method", "") if isinstance(quantized, Mapping) else ""
        raise ValueError(f"quantization_config {method or quantized!r}: {REMEDY}")
    known = READ | HARMLESS
    if architecture.biases:
        known |= {"attention_bias", "mlp_bias"}
    if architecture.default_window is not None:
        known |= {"sliding_window"}
    accepted = {**NEUTRAL, **architecture.required}
    for name, value in config.items():
        if name in known or value is None:
            continue
        if name not in accepted:
            raise ValueError(
                f"field {name!r} (value {value!r}) is unknown and may change the computation: "
                "use a checkpoint without it, or delete it if it does not"
            )
        if value != accepted[name]:
            raise ValueError(
                f"field {name!r} is {value!r}, but only {accepted[name]!r} is supported: "
                "use a checkpoint with that value"
            )


def _rope(config: Mapping[str, object]) -> tuple[float, RopeScaling | None]:
    """The base frequency and the scaling, from either spelling."""
    older, newer = config.get("rope_scaling"), config.get("rope_parameters")
    if older is not None and newer is not None and older != newer:
        raise ValueError("rope_scaling and rope_parameters differ: delete the wrong one")
    rope = older or newer or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"rope parameters are {rope!r}, not an object: correct the config")
    default_theta = _optional(config, "rope_theta", 10000.0)
    theta = _optional(rope, "rope_theta", default_theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_KEYS:
        raise ValueError(
            f"rope type {kind!r} is not supported: use a checkpoint with {', '.join(ROPE_KEYS)}"
        )
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(
            f"partial_rotary_factor is {rope['partial_rotary_factor']!r}, but only 1.0 is "
            "supported: use a checkpoint that rotates whole heads"
        )
    shared = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
    for name, value in rope.items():
        if value is not None and name not in ROPE_KEYS[kind] | shared:
            raise ValueError(
                f"rope parameter {name!r} (value {value!r}) does not belong to rope type {kind!r}: "
                "use a checkpoint without it, or delete it if it changes nothing"
            )
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", _required(rope, "factor"))
    return theta, RopeScaling(
        kind="llama3",
        factor=_required(rope, "factor"),
        low_freq_factor=_required(rope, "low_freq_factor"),
        high_freq_factor=_required(rope, "high_freq_factor"),
        original_context_length=_required(rope, "original_max_position_embeddings"),
    )


def _required(config: Mapping[str, object], name: str) -> object:
    if config.get(name) is None:
        raise ValueError(f"field {name!r} is missing: complete the config or download it again")
    return config[name]


def _optional(config: Mapping[str, object], name: str, default: object) -> object:
    value = config.get(name)
    return default if value is None else value


def _whole_division(dim: object, heads: object) -> int:
    if not isinstance(dim, int) or not isinstance(heads, int) or heads <= 0 or dim % heads:
        raise ValueError(
            f"hidden_size {dim!r} does not divide evenly among {heads!r} num_attention_heads: "
            "correct the config or give head_dim"
        )
    return dim // heads
