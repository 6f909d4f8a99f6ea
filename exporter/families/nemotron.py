"""Nemotron 3, 4, Minitron and Mini: layer norms that add 1, squared ReLU without a gate, half-rotated heads.

Sources: transformers' NemotronConfig and modeling_nemotron, llama.cpp's architecture `nemotron`
(arXiv 2402.16819). Stored norms in Hugging Face's form are what the model adds 1 to; GGUF has the sums.
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

ROTARY_PART = 0.5  # of a head, where the config does not say


def from_hf(config: HFConfig) -> ModelConfig:
    config.only("hidden_act", "relu2")
    head_dim, bias = config.head_dim(), config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads"),
        n_kv_heads=config.kv_heads(config.count("num_attention_heads")),
        head_dim=head_dim,
        rope=config.rope(head_dim, default_part=ROTARY_PART),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = _layer(attention, config.count("intermediate_size"), config.boolean("mlp_bias"))
    return config.model("nemotron", [layer], default_context=4096, eps=("norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    head_dim = config.head_dim(rotated_whole=False)
    attention = config.attention(head_dim, config.rope(config.count("rope.dimension_count", head_dim)))
    layer = _layer(attention, config.count("feed_forward_length"), config.has("blk.0.ffn_up.bias"))
    return config.model("nemotron", [layer])


def _layer(attention: AttentionSpec, hidden_dim: int, bias: bool) -> LayerSpec:
    feed_forward = FeedForwardSpec(hidden_dim, "relu2", bias=bias, gated=False)
    return LayerSpec(attention, feed_forward, norm="layer", norm_bias=True)


FAMILY = Family(
    "nemotron",
    hf=HFSource(("NemotronForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED, norm_offset=1.0)),
    gguf=GGUFSource("nemotron", from_gguf, TensorNames(GGUF_NAMES, GGUF_IGNORED)),
)
