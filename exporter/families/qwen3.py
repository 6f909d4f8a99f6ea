"""Qwen3, dense: norms of queries and keys by head.

Sources: transformers' Qwen3Config and modeling_qwen3, llama.cpp's architecture `qwen3` (arXiv 2505.09388).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import (
    GGUF_IGNORED,
    GGUF_NAMES,
    GGUF_QK_NORMS,
    HF_IGNORED,
    HF_NAMES,
    HF_QK_NORMS,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim = config.count("head_dim", 128)
    bias = config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads"),
        n_kv_heads=config.kv_heads(32),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        qk_norm="head",
        qkv_bias=bias,
        output_bias=bias,
    )
    feed_forward = FeedForwardSpec(config.count("intermediate_size"))
    layers = config.windowed_from(LayerSpec(attention, feed_forward), default_first=28, default_window=4096)
    return config.model("qwen3", layers, default_context=32768)


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim), qk_norm="head")
    return config.model("qwen3", [LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length")))])


FAMILY = Family(
    "qwen3",
    hf=HFSource(("Qwen3ForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_QK_NORMS, HF_IGNORED)),
    gguf=GGUFSource("qwen3", from_gguf, TensorNames(GGUF_NAMES | GGUF_QK_NORMS, GGUF_IGNORED)),
)
