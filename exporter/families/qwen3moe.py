"""Qwen3's mixtures of experts: Qwen3's attention; layers without experts where the config says so.

Sources: transformers' Qwen3MoeConfig and modeling_qwen3_moe, llama.cpp's architecture `qwen3moe`
(arXiv 2505.09388).
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
    for name, value in (("qkv_bias", False), ("use_qk_norm", True), ("shared_expert_intermediate_size", 0)):
        config.only(name, value)  # of Qwen3-Coder's config: what all of them have
    head_dim, bias = config.count("head_dim", 128), config.boolean("attention_bias")
    window = config.window("sliding_window", 4096)
    config.ignore("max_window_layers")  # nobody reads it: all layers have the window, or none
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 32),
        n_kv_heads=config.kv_heads(4),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        window=window if config.boolean("use_sliding_window") else None,
        qk_norm="head",
        qkv_bias=bias,
        output_bias=bias,
    )
    count = config.count("num_local_experts", config.count("num_experts", 128))  # version 5's name, and 4's
    experts = config.experts(count, 8, config.boolean("norm_topk_prob"))
    sparse = LayerSpec(
        attention, FeedForwardSpec(config.count("moe_intermediate_size", 768), experts=experts)
    )
    dense = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size", 6144)))
    every, numbers = config.count("decoder_sparse_step", 1), range(config.layer_count())
    without = config.optional("mlp_only_layers", [])
    if not isinstance(without, list) or not all(type(i) is int and i in numbers for i in without):
        raise ValueError(
            f"field 'mlp_only_layers' is {without!r}, not a list of layers from 0 to {numbers[-1]}: correct "
            "the config"
        )
    layers = [dense if i in without or (i + 1) % every else sparse for i in numbers]
    return config.model("qwen3moe", layers, default_context=32768)


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim), qk_norm="head")
    experts = config.experts(renormalize=True)  # as llama.cpp has it
    config.optional("feed_forward_length")  # of layers without experts, which no file has
    feed_forward = FeedForwardSpec(config.count("expert_feed_forward_length"), experts=experts)
    return config.model("qwen3moe", [LayerSpec(attention, feed_forward)])


FAMILY = Family(
    "qwen3moe",
    hf=HFSource(
        ("Qwen3MoeForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_QK_NORMS | HF_EXPERTS, HF_IGNORED)
    ),
    gguf=GGUFSource(
        "qwen3moe", from_gguf, TensorNames(GGUF_NAMES | GGUF_QK_NORMS | GGUF_EXPERTS, GGUF_IGNORED)
    ),
)
