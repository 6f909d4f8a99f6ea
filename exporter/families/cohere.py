"""Cohere 1 (Command R, Aya): both branches of one layer norm, neighbours that rotate, logits that are scaled.

Sources: transformers' CohereConfig and modeling_cohere, llama.cpp's architecture `command-r`.
"""

from __future__ import annotations

from exporter.families.cohere2 import COHERE_EPS, COHERE_LOGIT_SCALE, COHERE_ONLY
from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    """Command R+ (`use_qk_norm`) is refused: its layer norms of heads have a weight for each."""
    config.only("hidden_act", "silu")
    for name, value in COHERE_ONLY.items():
        config.only(name, value)
    config.ignore("model_max_length")  # in published files; transformers does not read it
    heads, head_dim = config.count("num_attention_heads"), config.head_dim()
    bias = config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=config.rope(head_dim, 500000.0, interleaved=True),
        qkv_bias=bias,
        output_bias=bias,
    )
    return config.model(
        "cohere", [_layer(attention, config.count("intermediate_size"))],
        default_context=8192, default_tied=True, eps=COHERE_EPS,
        logit_scale=config.number("logit_scale", COHERE_LOGIT_SCALE),
    )  # fmt: skip


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(
        head_dim, config.rope(head_dim, interleaved=True), n_kv_heads=config.kv_heads()
    )
    layer = _layer(attention, config.count("feed_forward_length"))
    return config.model("cohere", [layer], logit_scale=config.number("logit_scale", COHERE_LOGIT_SCALE))


def _layer(attention: AttentionSpec, hidden_dim: int) -> LayerSpec:
    return LayerSpec(attention, FeedForwardSpec(hidden_dim), parallel=True, norm="layer")


FAMILY = Family(
    "cohere",
    hf=HFSource(("CohereForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource("command-r", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
