"""Cohere 2 (Command R7B and A): both branches of one norm, three windowed layers to one without rotation.

Sources: transformers' Cohere2Config and modeling_cohere2, llama.cpp's architecture `cohere2`. Its predecessor
is families/cohere.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import FULL, SLIDING, HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope

COHERE_PATTERN = 4  # every fourth layer sees all positions, and turns none
COHERE_LOGIT_SCALE = 0.0625  # where the config does not say
COHERE_EPS = ("layer_norm_eps", 1e-5)
# In published files; transformers does not read them.
COHERE_ONLY: dict[str, object] = {
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": False,
    "use_qk_norm": False,
}


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "silu")
    for name, value in COHERE_ONLY.items():
        config.only(name, value)
    config.only("order_of_interleaved_layers", "local_attn_first")
    config.ignore("cache_implementation")  # how transformers keeps its own cache
    config.ignore("layer_switch")  # what sliding_window_pattern says
    heads, head_dim = config.count("num_attention_heads"), config.head_dim()
    bias = config.boolean("attention_bias")
    pattern = config.count("sliding_window_pattern", COHERE_PATTERN)
    layers = _layers(
        config.layer_kinds([SLIDING if (i + 1) % pattern else FULL for i in range(config.layer_count())]),
        config.rope(head_dim, interleaved=True),
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        window=config.count("sliding_window", 4096),
        hidden_dim=config.count("intermediate_size"),
        bias=bias,
    )
    return config.model(
        "cohere2", layers, default_context=8192, default_tied=True, eps=COHERE_EPS,
        logit_scale=config.number("logit_scale", COHERE_LOGIT_SCALE),
    )  # fmt: skip


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, heads = config.head_dim(), config.count("attention.head_count")
    pattern = config.count("attention.sliding_window_pattern", COHERE_PATTERN)
    layers = _layers(
        (SLIDING if (i + 1) % pattern else FULL for i in range(config.layer_count())),
        config.rope(head_dim, interleaved=True),
        n_heads=heads,
        n_kv_heads=config.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        window=config.count("attention.sliding_window"),
        hidden_dim=config.count("feed_forward_length"),
        bias=config.has("blk.0.attn_q.bias"),
    )
    return config.model("cohere2", layers, logit_scale=config.number("logit_scale", COHERE_LOGIT_SCALE))


def _layers(
    kinds: Iterable[str], rope: Rope, *, n_heads: int, n_kv_heads: int, head_dim: int, window: int,
    hidden_dim: int, bias: bool,
) -> list[LayerSpec]:  # fmt: skip
    made = {
        kind: LayerSpec(
            AttentionSpec(
                n_heads, n_kv_heads, head_dim, own_rope, own_window, qkv_bias=bias, output_bias=bias
            ),
            FeedForwardSpec(hidden_dim),
            parallel=True,
            norm="layer",
        )
        for kind, own_rope, own_window in ((SLIDING, rope, window), (FULL, None, None))
    }
    return [made[kind] for kind in kinds]


# The one norm of a layer is attention's.
FAMILY = Family(
    "cohere2",
    hf=HFSource(("Cohere2ForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource("cohere2", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
