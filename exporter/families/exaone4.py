"""EXAONE 4: norms of what is added alone, and of queries and keys by head; the larger model has windows in
three of four layers, and rotates in those alone.

Sources: transformers' Exaone4Config and modeling_exaone4, llama.cpp's architecture `exaone4`
(arXiv 2507.11407).
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

_PERIOD = 4  # the last layer of so many sees all positions


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim, window = config.head_dim(), config.window("sliding_window", 4096)
    pattern, n_layers = config.optional("sliding_window_pattern", _PERIOD), config.layer_count()
    kinds = config.layer_kinds(_kinds(pattern, n_layers) if window is not None else [FULL] * n_layers)
    rope = config.rope(head_dim)
    layers = [
        _layer(
            config.count("num_attention_heads", 32), config.count("num_key_value_heads", 32), head_dim, rope,
            config.count("intermediate_size"), window, kind == SLIDING,
        )
        for kind in kinds
    ]  # fmt: skip
    return config.model("exaone4", layers, default_context=2048, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    window, rope = config.optional("attention.sliding_window") or None, config.rope(head_dim)
    slides = config.pattern("attention.sliding_window_pattern", _PERIOD) if window else [False]
    layers = [
        _layer(
            heads, config.count("attention.head_count_kv", heads), head_dim, rope,
            config.count("feed_forward_length"), window, sliding,
        )
        for sliding in slides
    ]  # fmt: skip
    return config.model("exaone4", layers)


def _kinds(pattern: object, n_layers: int) -> list[str]:
    """The kinds of layers that `sliding_window_pattern` tells: "LLLG", letters of local and global, or the
    number of layers of which the last is global."""
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        return [SLIDING if pattern[i % len(pattern)] == "L" else FULL for i in range(n_layers)]
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        return [FULL if (i + 1) % pattern == 0 else SLIDING for i in range(n_layers)]
    raise ValueError(
        f"sliding_window_pattern is {pattern!r}, not a number or letters L and G: correct the config"
    )


def _layer(
    heads: int, kv_heads: int, head_dim: int, rope: Rope, hidden_dim: int, window: int | None, sliding: bool
) -> LayerSpec:
    rotates = sliding or window is None
    attention = AttentionSpec(
        heads, kv_heads, head_dim, rope if rotates else None, window if sliding else None, qk_norm="head"
    )
    return LayerSpec(attention, FeedForwardSpec(hidden_dim), norm_in=False, norm_out=True)


FAMILY = Family(
    "exaone4",
    hf=HFSource(
        ("Exaone4ForCausalLM",),
        from_hf,
        TensorNames(HF_NAMES | HF_OUT_NORMS | HF_QK_NORMS, HF_IGNORED),
    ),
    gguf=GGUFSource(
        "exaone4",
        from_gguf,
        TensorNames(GGUF_NAMES | GGUF_OUT_NORMS | GGUF_QK_NORMS, GGUF_IGNORED),
    ),
)
