"""ERNIE 4.5, dense: Llama's layers, whose heads rotate in neighbouring pairs.

Sources: transformers' Ernie4_5Config and modeling_ernie4_5, llama.cpp's architecture `ernie4_5`.
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    config.ignore("auto_map")  # where its own code lies
    head_dim, heads = config.head_dim(), config.count("num_attention_heads", 16)
    bias = config.boolean("use_bias")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.kv_heads(2),
        head_dim=head_dim,
        rope=config.rope(head_dim, 500000.0, interleaved=True),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size"), bias=bias))
    return config.model(
        "ernie4_5", [layer], default_context=131072, default_tied=True, eps=("rms_norm_eps", 1e-5)
    )


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim, interleaved=True))
    feed_forward = FeedForwardSpec(
        config.count("feed_forward_length"), bias=config.has("blk.0.ffn_gate.bias")
    )
    return config.model("ernie4_5", [LayerSpec(attention, feed_forward)])


FAMILY = Family(
    "ernie4_5",
    hf=HFSource(
        ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"), from_hf, TensorNames(HF_NAMES, HF_IGNORED)
    ),
    gguf=GGUFSource("ernie4_5", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
