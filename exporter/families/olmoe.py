"""OLMoE: a mixture of experts, and norms of queries and keys over their whole width.

Sources: transformers' OlmoeConfig and modeling_olmoe, llama.cpp's architecture `olmoe` (arXiv 2409.02060).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import (
    GGUF_EXPERTS,
    GGUF_IGNORED,
    GGUF_NAMES,
    GGUF_QK_NORMS,
    HF_EXPERTS,
    HF_IGNORED,
    HF_NAMES,
    HF_QK_NORMS,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    config.only("clip_qkv", None)
    head_dim, bias = config.head_dim(), config.boolean("attention_bias")
    heads = config.count("num_attention_heads", 16)
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        qk_norm="width",
        qkv_bias=bias,
        output_bias=bias,
    )
    experts = config.experts(config.count("num_experts", 64), 8, config.boolean("norm_topk_prob"))
    feed_forward = FeedForwardSpec(config.count("intermediate_size", 2048), experts=experts)
    return config.model(
        "olmoe", [LayerSpec(attention, feed_forward)], default_context=4096, eps=("rms_norm_eps", 1e-5)
    )


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim), config.kv_heads(), qk_norm="width")
    experts = config.experts(renormalize=False)  # as llama.cpp has it
    feed_forward = FeedForwardSpec(config.count("feed_forward_length"), experts=experts)
    return config.model("olmoe", [LayerSpec(attention, feed_forward)])


FAMILY = Family(
    "olmoe",
    hf=HFSource(("OlmoeForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_QK_NORMS | HF_EXPERTS, HF_IGNORED)),
    gguf=GGUFSource(
        "olmoe", from_gguf, TensorNames(GGUF_NAMES | GGUF_QK_NORMS | GGUF_EXPERTS, GGUF_IGNORED)
    ),
)
