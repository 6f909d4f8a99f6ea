"""Meta's `params.json`, and the same fields in Karpathy's and Mistral's files, to `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.formats.adapter import REMEDY as ADAPTER_REMEDY
from exporter.formats.quantized_names import REMEDY
from exporter.model.config import ModelConfig, RopeScaling

READ = frozenset(
    """dim head_dim max_seq_len n_heads n_kv_heads n_layers norm_eps rope_scaling_factor rope_theta
    sliding_window use_scaled_rope vocab_size""".split()
)
# The width of the feed-forward layer follows from the tensors; the rest is about training.
HARMLESS = frozenset("dropout ffn_dim_multiplier hidden_dim max_batch_size multiple_of".split())

# params.json never says how far the rotary frequencies are stretched. It is 8 for Llama 3.1 and
# 3.3 and for the larger 3.2; for the two small 3.2 models, known by their width, it is 32
# (meta-llama/llama-models issues 166 and 241).
SCALING_FACTOR = 8.0
SCALING_FACTOR_OF_DIM = {2048: 32.0, 3072: 32.0}

# Nor does it say how long a context the model was trained for; the base frequency tells.
CONTEXT_OF_THETA = {10000.0: 4096, 500000.0: 8192, 1000000.0: 16384}
SCALED_CONTEXT = 131072


def from_meta(
    params: Mapping[str, object], *, vocab_size: int, hidden_dim: int, tied_embeddings: bool
) -> ModelConfig:
    """Reads `params`; the keyword arguments are what the tensors show.

    A `vocab_size` of -1 in `params` (Llama 2) means the tensors' own.
    """
    if params.get("quantization_args") is not None:
        raise ValueError(f"quantization_args {params['quantization_args']!r}: {REMEDY}")
    if params.get("lora_args") is not None:
        raise ValueError(f"lora_args {params['lora_args']!r}: {ADAPTER_REMEDY}")
    for name, value in params.items():
        if value is not None and name not in READ | HARMLESS:
            raise ValueError(
                f"field {name!r} (value {value!r}) is unknown and may change the computation: "
                "use a checkpoint without it, or delete it if it does not"
            )
    dim, heads = _required(params, "dim"), _required(params, "n_heads")
    theta = float(params.get("rope_theta") or 10000.0)
    scaling = None
    if params.get("use_scaled_rope"):
        factor = params.get("rope_scaling_factor") or SCALING_FACTOR_OF_DIM.get(dim, SCALING_FACTOR)
        scaling = RopeScaling("llama3", factor)
    context = SCALED_CONTEXT if scaling else CONTEXT_OF_THETA.get(theta, 4096)
    window = params.get("sliding_window")
    stated_vocab = params.get("vocab_size", -1)
    return ModelConfig(
        family="mistral" if window else "llama",
        dim=dim,
        n_layers=_required(params, "n_layers"),
        n_heads=heads,
        n_kv_heads=params.get("n_kv_heads") or heads,
        head_dim=params.get("head_dim") or dim // heads,
        hidden_dim=hidden_dim,
        vocab_size=vocab_size if stated_vocab == -1 else stated_vocab,
        norm_eps=params.get("norm_eps", 1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        context_length=params.get("max_seq_len") or context,
        tied_embeddings=tied_embeddings,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        sliding_window=window,
    )


def _required(params: Mapping[str, object], name: str) -> int:
    value = params.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"field {name!r} is {value!r}, not a positive whole number: correct it")
    return value
