"""Qwen2 and Qwen2.5, dense: biases of queries, keys and values.

Sources: transformers' Qwen2Config and modeling_qwen2, llama.cpp's architecture `qwen2` (arXiv 2407.10671).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    config.only("use_mrope", False)  # in the files of Qwen2.5's base models; transformers does not read it
    head_dim = config.head_dim()
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads"),
        n_kv_heads=config.kv_heads(32),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        qkv_bias=True,
    )
    feed_forward = FeedForwardSpec(config.count("intermediate_size"))
    layers = config.windowed_from(LayerSpec(attention, feed_forward), default_first=28, default_window=4096)
    return config.model("qwen2", layers, default_context=32768)


def from_gguf(config: GGUFConfig) -> ModelConfig:
    """These files say nothing of windows: llama.cpp's converter drops them."""
    head_dim = config.head_dim()
    attention = AttentionSpec(
        n_heads=config.count("attention.head_count"),
        n_kv_heads=config.count("attention.head_count_kv"),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        qkv_bias=True,
    )
    return config.model("qwen2", [LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length")))])


FAMILY = Family(
    "qwen2",
    hf=HFSource(("Qwen2ForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource("qwen2", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
