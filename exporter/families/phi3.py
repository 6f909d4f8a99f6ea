"""Phi-3, 3.5 and 4: fused matrices, a window, a part of each head rotated, LongRoPE.

Sources: transformers' Phi3Config and modeling_phi3, llama.cpp's architecture `phi3` (arXiv 2404.14219).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import (
    GGUF_FUSED,
    GGUF_IGNORED,
    GGUF_NAMES,
    HF_FUSED,
    HF_IGNORED,
    HF_NAMES,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    for name, value in {
        "attention_bias": False, "mlp_bias": False, "lm_head_bias": False, "full_attn_mod": 1,
        "interpolate_factor": 1,
    }.items():  # fmt: skip
        config.only(name, value)
    for name in ("auto_map", "embd_pdrop", "resid_pdrop"):  # where its own code lies, and training
        config.ignore(name)
    heads, head_dim = config.count("num_attention_heads", 32), config.head_dim()
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=config.rope(head_dim, default_part=1.0),
        window=config.window("sliding_window", None),
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("intermediate_size")))
    return config.model("phi3", [layer], default_context=4096, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(rotated_whole=False), config.count("attention.head_count")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope=config.rope(config.count("rope.dimension_count", head_dim)),
        window=config.optional("attention.sliding_window") or None,
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.count("feed_forward_length")))
    return config.model("phi3", [layer])


FAMILY = Family(
    "phi3",
    hf=HFSource(("Phi3ForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_FUSED, HF_IGNORED)),
    gguf=GGUFSource("phi3", from_gguf, TensorNames(GGUF_NAMES | GGUF_FUSED, GGUF_IGNORED)),
)
