"""Gemma 2: norms before and after, every other layer with a window, soft caps of scores and logits.

Sources: transformers' Gemma2Config and modeling_gemma2, llama.cpp's architecture `gemma2`
(arXiv 2408.00118). Stored norms in Hugging Face's form are what the model adds 1 to; GGUF has the sums.
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import FULL, SLIDING, HFConfig
from exporter.families.sources.names import (
    GGUF_IGNORED,
    GGUF_NAMES,
    GGUF_OUT_NORMS,
    HF_IGNORED,
    HF_NAMES,
    HF_SANDWICH_NORMS,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

KINDS = (SLIDING, FULL)  # of layers, in turn
SCORE_CAP, LOGIT_CAP = 50.0, 30.0
# Layers of the 27B model, whose scores are scaled by its width a head instead of the head's own width.
_LAYERS_OF_27B = 46


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_activation", "gelu_pytorch_tanh")
    config.only("hidden_act", "gelu_pytorch_tanh")
    config.only("use_bidirectional_attention", False)
    config.ignore("cache_implementation")  # how transformers keeps its own cache
    head_dim, bias = config.count("head_dim", 256), config.boolean("attention_bias")
    window = config.window("sliding_window", 4096)
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads", 8),
        n_kv_heads=config.count("num_key_value_heads", 4),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.nullable("attn_logit_softcapping", SCORE_CAP),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = LayerSpec(
        attention, FeedForwardSpec(config.count("intermediate_size"), "gelu_tanh"), norm_out=True
    )
    kinds = config.layer_kinds([KINDS[i % 2] for i in range(config.layer_count())])
    return config.model(
        "gemma2",
        [layer.windowed(window) if kind == SLIDING else layer for kind in kinds],
        default_context=8192,
        default_tied=True,
        embedding_scale=config.count("hidden_size") ** 0.5,
        logit_softcap=config.nullable("final_logit_softcapping", LOGIT_CAP),
    )


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    dim, n_layers = config.count("embedding_length"), config.layer_count()
    window = config.count("attention.sliding_window", 4096)
    attention = config.attention(
        head_dim, config.rope(head_dim), n_kv_heads=config.kv_heads(),
        scale=(dim / heads if n_layers == _LAYERS_OF_27B else head_dim) ** -0.5,
        softcap=config.number("attn_logit_softcapping", SCORE_CAP),
    )  # fmt: skip
    layer = LayerSpec(
        attention, FeedForwardSpec(config.count("feed_forward_length"), "gelu_tanh"), norm_out=True
    )
    return config.model(
        "gemma2",
        [layer.windowed(window) if kind == SLIDING else layer for kind in KINDS],
        embedding_scale=dim**0.5,
        logit_softcap=config.number("final_logit_softcapping", LOGIT_CAP),
    )


FAMILY = Family(
    "gemma2",
    hf=HFSource(
        ("Gemma2ForCausalLM",),
        from_hf,
        TensorNames(HF_NAMES | HF_SANDWICH_NORMS, HF_IGNORED, norm_offset=1.0),
    ),
    gguf=GGUFSource("gemma2", from_gguf, TensorNames(GGUF_NAMES | GGUF_OUT_NORMS, GGUF_IGNORED)),
)
