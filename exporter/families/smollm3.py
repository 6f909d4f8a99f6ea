"""SmolLM3: Llama's layers, every fourth of them without a rotation.

Sources: transformers' SmolLM3Config and modeling_smollm3, llama.cpp's architecture `smollm3`.
"""

from __future__ import annotations

from dataclasses import replace

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import FULL, SLIDING, HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

INTERVAL = 4  # every fourth layer does not rotate


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    head_dim, heads = config.head_dim(), config.count("num_attention_heads", 16)
    bias, n_layers = config.boolean("attention_bias"), config.layer_count()
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.kv_heads(4),
        head_dim=head_dim,
        rope=config.rope(head_dim, 2e6),
        qkv_bias=bias,
        output_bias=bias,
    )
    feed_forward = FeedForwardSpec(config.count("intermediate_size"), bias=config.boolean("mlp_bias"))
    rotates = _rotating_layers(config, n_layers)
    window = config.window("sliding_window", None) if config.boolean("use_sliding_window") else None
    for name in ("sliding_window", "max_window_layers"):  # read where windows are used, or nowhere
        config.ignore(name)
    kinds = config.layer_kinds([FULL if rotates[i] or window is None else SLIDING for i in range(n_layers)])
    layers = [
        _layer(attention, feed_forward, rotates[i]).windowed(window if kinds[i] == SLIDING else None)
        for i in range(n_layers)
    ]
    return config.model("smollm3", layers, default_context=32768, default_tied=True)


def from_gguf(config: GGUFConfig) -> ModelConfig:
    """These files do not say which layers rotate: llama.cpp's are all like the first."""
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim))
    feed_forward = FeedForwardSpec(
        config.count("feed_forward_length"), bias=config.has("blk.0.ffn_gate.bias")
    )
    return config.model(
        "smollm3", [_layer(attention, feed_forward, (i + 1) % INTERVAL != 0) for i in range(INTERVAL)]
    )


def _rotating_layers(config: HFConfig, n_layers: int) -> list[bool]:
    """Which layers rotate: `no_rope_layers` says it, in spite of its name, with 1 and 0."""
    interval, found = config.count("no_rope_layer_interval", INTERVAL), config.optional("no_rope_layers")
    if found is None:
        return [(i + 1) % interval != 0 for i in range(n_layers)]
    if not isinstance(found, list) or len(found) != n_layers or any(value not in (0, 1) for value in found):
        raise ValueError(f"no_rope_layers is {found!r}, not {n_layers} times 0 or 1: correct the config")
    return list(map(bool, found))


def _layer(attention: AttentionSpec, feed_forward: FeedForwardSpec, rotates: bool) -> LayerSpec:
    return LayerSpec(attention if rotates else replace(attention, rope=None), feed_forward)


FAMILY = Family(
    "smollm3",
    hf=HFSource(("SmolLM3ForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource("smollm3", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED, interleaved=True)),
)
