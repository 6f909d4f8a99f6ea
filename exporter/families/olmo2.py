"""OLMo 2 and 3: norms of what is added alone, and of queries and keys over their whole width; OLMo 3 has
windows in three of four layers, which keep the rotation that the others stretch.

Sources: transformers' Olmo2Config, Olmo3Config and their models, llama.cpp's architecture `olmo2`
(arXiv 2501.00656).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import FULL, SLIDING, HFConfig
from exporter.families.sources.names import (
    GGUF_IGNORED,
    GGUF_NAMES,
    GGUF_OUT_NORMS,
    GGUF_QK_NORMS,
    HF_IGNORED,
    HF_NAMES,
    HF_OUT_NORMS,
    HF_QK_NORMS,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope

_PERIOD = 4  # of OLMo 3's layers the last sees all positions
THETA = 500000.0  # OLMo 3's, where nobody says it


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim = config.head_dim()
    third = config.fields["architectures"] == ["Olmo3ForCausalLM"]
    window, kinds = None, [FULL] * config.layer_count()
    if third:
        window = config.window("sliding_window", 4096)
        kinds = [FULL if (i + 1) % _PERIOD == 0 else SLIDING for i in range(len(kinds))]
        ropes = config.ropes_by_kind(head_dim, dict.fromkeys((FULL, SLIDING), ("rope_theta", THETA)))
    else:
        ropes = {FULL: config.rope(head_dim)}
    heads, bias = config.count("num_attention_heads", 32), config.boolean("attention_bias")
    layers = [
        _layer(
            heads, config.count("num_key_value_heads", heads), head_dim, ropes[kind],
            config.count("intermediate_size"), window if kind == SLIDING else None, bias, bias,
        )
        for kind in config.layer_kinds(kinds)
    ]  # fmt: skip
    return config.model("olmo2", layers, default_context=2048, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    window, rope = config.optional("attention.sliding_window"), config.rope(head_dim)
    slides = config.pattern("attention.sliding_window_pattern", _PERIOD) if window else [False]
    local = Rope(config.number("rope.freq_base_swa", rope.theta), head_dim)
    layers = [
        _layer(
            heads, config.count("attention.head_count_kv", heads), head_dim, local if sliding else rope,
            config.count("feed_forward_length"), window if sliding else None,
            config.has("blk.0.attn_q.bias"), config.has("blk.0.attn_output.bias"),
        )
        for sliding in slides
    ]  # fmt: skip
    return config.model("olmo2", layers)


def _layer(
    heads: int, kv_heads: int, head_dim: int, rope: Rope, hidden_dim: int, window: int | None,
    qkv_bias: bool, output_bias: bool,
) -> LayerSpec:  # fmt: skip
    attention = AttentionSpec(
        heads, kv_heads, head_dim, rope, window, qk_norm="width", qkv_bias=qkv_bias, output_bias=output_bias
    )
    return LayerSpec(attention, FeedForwardSpec(hidden_dim), norm_in=False, norm_out=True)


FAMILY = Family(
    "olmo2",
    hf=HFSource(
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        from_hf,
        TensorNames(HF_NAMES | HF_OUT_NORMS | HF_QK_NORMS, HF_IGNORED),
    ),
    gguf=GGUFSource(
        "olmo2",
        from_gguf,
        TensorNames(GGUF_NAMES | GGUF_OUT_NORMS | GGUF_QK_NORMS, GGUF_IGNORED),
    ),
)
