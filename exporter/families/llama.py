"""Llama 1 to 3.2 and what has its layers, SmolLM2 and TinyLlama among them.

Sources: transformers' LlamaConfig, llama.cpp's converter of the architecture `llama`, Meta's llama-models.
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, MetaSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.meta import MetaConfig
from exporter.families.sources.names import (
    GGUF_EXPERTS,
    GGUF_IGNORED,
    GGUF_NAMES,
    HF_IGNORED,
    HF_NAMES,
    META_IGNORED,
    META_NAMES,
)
from exporter.model.config import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    Rope,
    RopeScaling,
    repeated,
)

META_FIELDS = frozenset(
    """dim head_dim max_seq_len n_heads n_kv_heads n_layers norm_eps rope_scaling_factor rope_theta
    sliding_window use_scaled_rope vocab_size""".split()
)
# params.json never says how far the rotary frequencies are stretched. It is 8 for Llama 3.1 and
# 3.3 and for the larger 3.2; for the two small 3.2 models, known by their width, it is 32
# (meta-llama/llama-models issues 166 and 241).
SCALING_FACTOR = 8.0
SCALING_FACTOR_OF_DIM = {2048: 32.0, 3072: 32.0}
# Nor does it say how long a context the model was trained for; the base frequency tells.
CONTEXT_OF_THETA = {10000.0: 4096, 500000.0: 8192, 1000000.0: 16384}
SCALED_CONTEXT = 131072


def from_hf(config: HFConfig) -> ModelConfig:
    heads, head_dim = config.count("num_attention_heads"), config.head_dim()
    config.only("hidden_act", "silu")
    bias = config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        qkv_bias=bias,
        output_bias=bias,
    )
    feed_forward = FeedForwardSpec(
        config.count("intermediate_size"), bias=config.boolean("mlp_bias")
    )
    return config.model("llama", [LayerSpec(attention, feed_forward)], default_context=2048)


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    attention = config.attention(
        head_dim, config.rope(head_dim), n_kv_heads=config.kv_heads(),
        window=config.optional("attention.sliding_window") or None,
    )  # fmt: skip
    feed_forward = FeedForwardSpec(
        config.count("feed_forward_length"),
        bias=config.has("blk.0.ffn_gate.bias"),
        experts=config.experts(renormalize=True) if config.optional("expert_count") else None,  # Mixtral's
    )
    family = "llama" if feed_forward.experts is None else "mixtral"
    return config.model(family, [LayerSpec(attention, feed_forward)])


def from_meta(config: MetaConfig) -> ModelConfig:
    """With a window it is Mistral's own format, which has the same fields."""
    config.refuse_unknown(META_FIELDS)
    params, dim, heads = config.params, config.count("dim"), config.count("n_heads")
    theta = config.number("rope_theta", 10000.0)
    scaling = None
    if params.get("use_scaled_rope"):
        factor = params.get("rope_scaling_factor") or SCALING_FACTOR_OF_DIM.get(dim, SCALING_FACTOR)
        scaling = RopeScaling("llama3", factor)
    context = SCALED_CONTEXT if scaling else CONTEXT_OF_THETA.get(theta, 4096)
    head_dim, window = params.get("head_dim") or dim // heads, params.get("sliding_window")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=params.get("n_kv_heads") or heads,
        head_dim=head_dim,
        rope=Rope(theta, head_dim, scaling),
        window=window,
    )
    layer = LayerSpec(attention, FeedForwardSpec(config.hidden_dim))
    return ModelConfig(
        family="mistral" if window else "llama",
        dim=dim,
        layers=repeated([layer], config.count("n_layers")),
        vocab_size=config.vocabulary(),
        norm_eps=params.get("norm_eps", 1e-5),
        context_length=params.get("max_seq_len") or context,
        tied_embeddings=config.tied_embeddings,
    )


FAMILY = Family(
    "llama",
    hf=HFSource(("LlamaForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource(
        "llama", from_gguf, TensorNames(GGUF_NAMES | GGUF_EXPERTS, GGUF_IGNORED, interleaved=True)
    ),
    meta=MetaSource(from_meta, TensorNames(META_NAMES, META_IGNORED, interleaved=True)),
)
