"""GLM-4 of 2025 (0414): norms before and after, half of each head rotated in neighbouring pairs, gate and up
as one matrix.

Sources: transformers' Glm4Config and modeling_glm4, llama.cpp's architecture `glm4` (arXiv 2406.12793).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import (
    GGUF_FUSED,
    GGUF_IGNORED,
    GGUF_NAMES,
    GGUF_OUT_NORMS,
    HF_FUSED_GATE_UP,
    HF_IGNORED,
    HF_NAMES,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

ROTATED_PART = 0.5


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim = config.count("head_dim", 128)
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 32),
        n_kv_heads=config.count("num_key_value_heads", 2),
        head_dim=head_dim,
        rope=config.rope(head_dim, default_part=ROTATED_PART, interleaved=True),
        qkv_bias=config.boolean("attention_bias", True),
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size")), norm_out=True)
    return config.model("glm4", [layer], default_context=131072, eps=("rms_norm_eps", 1.5625e-07))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim(rotated_whole=False)
    attention = AttentionSpec(
        n_heads=config.count("attention.head_count"),
        n_kv_heads=config.count("attention.head_count_kv"),
        head_dim=head_dim,
        rope=config.rope(config.count("rope.dimension_count", head_dim), interleaved=True),
        qkv_bias=config.has("blk.0.attn_q.bias") or config.has("blk.0.attn_qkv.bias"),
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length")), norm_out=True)
    return config.model("glm4", [layer])


HF_NORMS = {
    "layers.{i}.attention_out_norm": "model.layers.{i}.post_self_attn_layernorm",
    "layers.{i}.ffn_out_norm": "model.layers.{i}.post_mlp_layernorm",
}
FAMILY = Family(
    "glm4",
    hf=HFSource(
        ("Glm4ForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_FUSED_GATE_UP | HF_NORMS, HF_IGNORED)
    ),
    gguf=GGUFSource("glm4", from_gguf, TensorNames(GGUF_NAMES | GGUF_FUSED | GGUF_OUT_NORMS, GGUF_IGNORED)),
)
