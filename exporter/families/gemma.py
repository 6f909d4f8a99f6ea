"""Gemma 1: Llama's layers with the gelu, wide heads, and norms that add 1.

Sources: transformers' GemmaConfig and modeling_gemma, llama.cpp's architecture `gemma` (arXiv 2403.08295).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

GELU_TANH = "gelu_tanh"


def from_hf(config: HFConfig) -> ModelConfig:
    # "gelu" in the first files means its approximation, too.
    config.only("hidden_act", "gelu" if config.optional("hidden_act") == "gelu" else "gelu_pytorch_tanh")
    config.only("hidden_activation", "gelu_pytorch_tanh")
    config.only("use_bidirectional_attention", False)
    head_dim, bias = config.count("head_dim", 256), config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 16),
        n_kv_heads=config.count("num_key_value_heads", 16),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size"), GELU_TANH))
    return config.model(
        "gemma", [layer], default_context=8192, default_tied=True,
        embedding_scale=config.count("hidden_size") ** 0.5,
    )  # fmt: skip


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim), n_kv_heads=config.kv_heads())
    layer = LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length"), GELU_TANH))
    return config.model("gemma", [layer], embedding_scale=config.count("embedding_length") ** 0.5)


FAMILY = Family(
    "gemma",
    hf=HFSource(("GemmaForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED, norm_offset=1.0)),
    gguf=GGUFSource("gemma", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
