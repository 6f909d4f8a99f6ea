"""StarCoder 2: layer norms, a feed-forward without a gate, biases everywhere.

Sources: transformers' Starcoder2Config and modeling_starcoder2, llama.cpp's architecture `starcoder2`
(arXiv 2402.19173).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "gelu_pytorch_tanh")
    config.only("mlp_type", "default")
    config.only("norm_type", "layer_norm")
    for name in ("embedding_dropout", "residual_dropout"):  # of training
        config.ignore(name)
    config.ignore("layer_norm_epsilon")  # in published files, of another class: transformers does not read it
    head_dim, bias = config.head_dim(), config.boolean("use_bias", True)
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 24),
        n_kv_heads=config.count("num_key_value_heads", 2),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        window=config.window("sliding_window", None),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = _layer(attention, config.count("intermediate_size", 12288), bias, norm_bias=True)
    return config.model(
        "starcoder2", [layer], default_context=4096, default_tied=True, eps=("norm_epsilon", 1e-5)
    )


def from_gguf(config: GGUFConfig) -> ModelConfig:
    """These files say nothing of windows: llama.cpp's converter drops them."""
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim))
    bias, norm_bias = config.has("blk.0.ffn_up.bias"), config.has("blk.0.attn_norm.bias")
    return config.model(
        "starcoder2", [_layer(attention, config.count("feed_forward_length"), bias, norm_bias)]
    )


def _layer(attention: AttentionSpec, hidden_dim: int, bias: bool, norm_bias: bool) -> LayerSpec:
    feed_forward = FeedForwardSpec(hidden_dim, "gelu_tanh", bias=bias, gated=False)
    return LayerSpec(attention, feed_forward, norm="layer", norm_bias=norm_bias)


_HF_NAMES = {
    "layers.{i}.feed_forward.w3": "model.layers.{i}.mlp.c_fc",
    "layers.{i}.feed_forward.w2": "model.layers.{i}.mlp.c_proj",
}

FAMILY = Family(
    "starcoder2",
    hf=HFSource(("Starcoder2ForCausalLM",), from_hf, TensorNames(HF_NAMES | _HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource("starcoder2", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
