"""Apertus: xIELU without a gate, whose parameters each layer has learned, and norms of queries and keys.

Sources: transformers' ApertusConfig, modeling_apertus and XIELUActivation, llama.cpp's architecture `apertus`
(arXiv 2509.14233). Hugging Face stores the activation's parameters as tensors, GGUF as fields; both hold the
alphas before softplus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import (
    GGUF_IGNORED,
    GGUF_NAMES,
    GGUF_QK_NORMS,
    HF_IGNORED,
    HF_NAMES,
    HF_QK_NORMS,
)
from exporter.model.config import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    Rope,
    RopeScaling,
    Xielu,
)

BASE, SCALING = 12e6, RopeScaling("llama3", 8.0)  # where the config has no rotation
XIELU_TENSOR = "model.layers.{}.mlp.act_fn.{}"  # read into the config


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "xielu")
    for name, value in (("mlp_bias", False), ("post_norm", False), ("qk_norm", True)):
        config.only(name, value)  # in published files; transformers does not read them
    config.ignore("hidden_dropout")
    head_dim = config.head_dim()
    rope = Rope(config.number("rope_theta", BASE), head_dim, SCALING)
    if config.optional("rope_parameters") or config.optional("rope_scaling"):
        rope = config.rope(head_dim, BASE)
    heads, bias = config.count("num_attention_heads"), config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=rope,
        qk_norm="head",
        qkv_bias=bias,
        output_bias=bias,
    )

    def stored(i: int) -> Xielu:
        names = (XIELU_TENSOR.format(i, name) for name in ("alpha_p", "alpha_n", "beta", "eps"))
        return _xielu(*map(config.stored_number, names))

    layers = _layers(attention, config.count("intermediate_size"), map(stored, range(config.layer_count())))
    return config.model("apertus", layers, default_context=65536, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim, n_layers = config.head_dim(), config.layer_count()
    attention = config.attention(
        head_dim, config.rope(head_dim, BASE), n_kv_heads=config.kv_heads(), qk_norm="head"
    )
    lists = [config.numbers(f"xielu.{name}", n_layers) for name in ("alpha_p", "alpha_n", "beta", "eps")]
    layers = _layers(attention, config.count("feed_forward_length"), map(_xielu, *lists))
    return config.model("apertus", layers)


def _layers(attention: AttentionSpec, hidden_dim: int, activations: Iterable[Xielu]) -> list[LayerSpec]:
    return [
        LayerSpec(attention, FeedForwardSpec(hidden_dim, "xielu", gated=False, xielu=xielu))
        for xielu in activations
    ]


def _xielu(alpha_p: float, alpha_n: float, beta: float, eps: float) -> Xielu:
    """Return the parameters of alphas before softplus; that of below 0 grows with beta, too."""
    return Xielu(_softplus(alpha_p), beta + _softplus(alpha_n), beta, eps)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


_HF_NAMES = {
    "layers.{i}.attention_norm": "model.layers.{i}.attention_layernorm",
    "layers.{i}.ffn_norm": "model.layers.{i}.feedforward_layernorm",
}

FAMILY = Family(
    "apertus",
    hf=HFSource(
        ("ApertusForCausalLM",),
        from_hf,
        TensorNames(HF_NAMES | _HF_NAMES | HF_QK_NORMS, (*HF_IGNORED, XIELU_TENSOR.format("*", "*"))),
    ),
    gguf=GGUFSource("apertus", from_gguf, TensorNames(GGUF_NAMES | GGUF_QK_NORMS, GGUF_IGNORED)),
)
