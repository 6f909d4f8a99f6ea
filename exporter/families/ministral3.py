"""Ministral 3: Llama's layers with YaRN, and queries that grow beyond the original context.

Sources: transformers' Ministral3Config and modeling_ministral3, llama.cpp's architecture `mistral3`, of which
are Mistral Small 3.1 and 3.2, too, whose queries do not grow.
"""

from __future__ import annotations

from dataclasses import replace

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    QueryGrowth,
    Rope,
)

BETA = "llama_4_scaling_beta"


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim = config.head_dim()
    rope = config.rope(head_dim, 1e6, beside=(BETA, "max_position_embeddings"))
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 32),
        n_kv_heads=config.kv_heads(8),
        head_dim=head_dim,
        rope=_growing(rope, config.rope_parameter(BETA)),
        window=config.window("sliding_window", None),
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size")))
    return config.model("ministral3", [layer], default_context=262144, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    beta = config.optional("attention.temperature_scale")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope=_growing(config.rope(head_dim), beta),
        window=config.optional("attention.sliding_window") or None,
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length")))
    return config.model("ministral3", [layer])


def _growing(rope: Rope, beta: object) -> Rope:
    """`rope`, with queries that grow by `beta` from YaRN's original context on; as it is without one, or with
    0, by which nothing grows."""
    if beta is None or beta == 0 and not isinstance(beta, bool):
        return rope
    if rope.scaling is None or rope.scaling.kind != "yarn":
        raise ValueError(
            "queries grow with their positions, and the rotation has no original context: use a checkpoint "
            "of rope type 'yarn'"
        )
    return replace(rope, query_growth=QueryGrowth(beta, rope.scaling.original_context_length))


FAMILY = Family(
    "ministral3",
    hf=HFSource(
        ("Ministral3ForCausalLM",),
        from_hf,
        TensorNames(HF_NAMES, HF_IGNORED),
        refused={
            "Mistral3ForConditionalGeneration": "it reads images, too: give the model's GGUF file, which "
            "holds its text part alone, or a folder with that part as Ministral3ForCausalLM"
        },
    ),
    gguf=GGUFSource(
        "mistral3", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED, interleaved=True)
    ),
)
