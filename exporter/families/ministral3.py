"""Ministral 3: Llama's layers with YaRN, up to the context from which on queries would be scaled.

Queries at position p are multiplied by 1 + beta log(1 + floor(p / original)), which is 1 below the original
context: so far is the context of what is read here.

Sources: transformers' Ministral3Config and modeling_ministral3, llama.cpp's architecture `mistral3`, of which
are Mistral Small 3.1 and 3.2, too, without a scale of queries.
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim = config.head_dim()
    rope = config.rope(head_dim, 1e6, beside=("llama_4_scaling_beta", "max_position_embeddings"))
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 32),
        n_kv_heads=config.kv_heads(8),
        head_dim=head_dim,
        rope=rope,
        window=config.window("sliding_window", None),
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size")))
    context = config.count("max_position_embeddings", 262144)
    return config.model(
        "ministral3", [layer], default_context=context, eps=("rms_norm_eps", 1e-5),
        context_length=_unscaled_context(rope, context),
    )  # fmt: skip


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    rope, context = config.rope(head_dim), config.count("context_length")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope=rope,
        window=config.optional("attention.sliding_window") or None,
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length")))
    if config.optional("attention.temperature_scale"):
        context = _unscaled_context(rope, context)
    return config.model("ministral3", [layer], context_length=context)


def _unscaled_context(rope: Rope, context: int) -> int:
    if rope.scaling is None or rope.scaling.kind != "yarn":
        raise ValueError(
            "queries are scaled by position, and the rotation has no original context: use a checkpoint of "
            "rope type 'yarn'"
        )
    return min(context, rope.scaling.original_context_length)


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
