"""Gemma 3, text: norms before and after, five windowed layers to one that sees all, two rotary bases.

Sources: transformers' Gemma3TextConfig and modeling_gemma3, llama.cpp's architecture `gemma3`
(arXiv 2503.19786). Stored norms in Hugging Face's form are what the model adds 1 to; GGUF has the sums.
"""

from __future__ import annotations

from collections.abc import Iterable

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
    HF_QK_NORMS,
    HF_SANDWICH_NORMS,
)
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope

PATTERN = 6  # every sixth layer sees all positions
LOCAL_THETA = 10000.0
THETAS = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", LOCAL_THETA)}
CONTEXT = 131072
# Layers of the 27B model, whose scores are scaled by its width a head instead of the head's own width.
LAYERS_OF_27B = 62


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_activation", "gelu_pytorch_tanh")
    config.only("attn_logit_softcapping", None)
    config.only("use_bidirectional_attention", False)
    config.ignore("cache_implementation")  # how transformers keeps its own cache
    n_layers, head_dim = config.layer_count(), config.count("head_dim", 256)
    older = config.count("sliding_window_pattern", PATTERN)
    pattern = config.count("_sliding_window_pattern", older)
    layers = _layers(
        config.layer_kinds([SLIDING if (i + 1) % pattern else FULL for i in range(n_layers)]),
        config.ropes_by_kind(head_dim, THETAS),
        n_heads=config.count("num_attention_heads", 8),
        n_kv_heads=config.count("num_key_value_heads", 4),
        head_dim=head_dim,
        hidden_dim=config.count("intermediate_size"),
        window=config.count("sliding_window", 4096),
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        bias=config.boolean("attention_bias"),
    )
    return config.model(
        "gemma3", layers, default_context=CONTEXT, default_tied=True,
        embedding_scale=config.count("hidden_size") ** 0.5,
        logit_softcap=config.nullable("final_logit_softcapping", None),
    )  # fmt: skip


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    dim, n_layers = config.count("embedding_length"), config.layer_count()
    scale = (dim / heads if n_layers == LAYERS_OF_27B else head_dim) ** -0.5
    pattern = config.count("attention.sliding_window_pattern", PATTERN)
    layers = _layers(
        (SLIDING if (i + 1) % pattern else FULL for i in range(n_layers)),
        {
            FULL: config.rope(head_dim, 1e6),
            SLIDING: Rope(config.number("rope.freq_base_swa", LOCAL_THETA), head_dim),
        },
        n_heads=heads,
        n_kv_heads=config.count("attention.head_count_kv", 4),
        head_dim=head_dim,
        hidden_dim=config.count("feed_forward_length"),
        window=config.count("attention.sliding_window"),
        scale=scale,
        bias=config.has("blk.0.attn_q.bias"),
    )
    softcap = config.optional("final_logit_softcapping")
    return config.model("gemma3", layers, embedding_scale=dim**0.5, logit_softcap=softcap)


def _layers(
    kinds: Iterable[str], ropes: dict[str, Rope], *, n_heads: int, n_kv_heads: int, head_dim: int,
    hidden_dim: int, window: int, scale: float, bias: bool,
) -> list[LayerSpec]:  # fmt: skip
    made = {
        kind: LayerSpec(
            AttentionSpec(
                n_heads, n_kv_heads, head_dim, rope, window if kind == SLIDING else None, scale,
                qk_norm="head", qkv_bias=bias, output_bias=bias,
            ),
            FeedForwardSpec(hidden_dim, "gelu_tanh"),
            norm_out=True,
        )
        for kind, rope in ropes.items()
    }  # fmt: skip
    return [made[kind] for kind in kinds]


FAMILY = Family(
    "gemma3",
    hf=HFSource(
        ("Gemma3ForCausalLM",),
        from_hf,
        TensorNames(HF_NAMES | HF_SANDWICH_NORMS | HF_QK_NORMS, HF_IGNORED, norm_offset=1.0),
        refused={
            "Gemma3ForConditionalGeneration": "it reads images, too: give the model's GGUF file, which holds "
            "its text part alone, or a folder with that part as Gemma3ForCausalLM"
        },
    ),
    gguf=GGUFSource(
        "gemma3", from_gguf, TensorNames(GGUF_NAMES | GGUF_OUT_NORMS | GGUF_QK_NORMS, GGUF_IGNORED)
    ),
)
