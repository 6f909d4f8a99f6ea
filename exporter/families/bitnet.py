"""BitNet b1.58: norms inside attention and feed-forward, and matrices of -1, 0 and 1 times a scale.

Sources: transformers' BitNetConfig and modeling_bitnet, llama.cpp's architecture `bitnet` (arXiv 2402.17764,
2504.12285). Ternary matrices are read as floats (formats/prequantized/ternary.py), which 2 bits keep exactly;
GGUF's are such floats already. Activations are rounded by the operators alone.
"""

from __future__ import annotations

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

BITNET_ACTIVATIONS = ("relu2", "silu")


def from_hf(config: HFConfig) -> ModelConfig:
    config.ignore("auto_map")  # of code that transformers has by now
    activation = config.optional("hidden_act", "relu2")
    if activation not in BITNET_ACTIVATIONS:
        raise ValueError(f"hidden_act {activation!r} is not supported: use a checkpoint with relu2 or silu")
    heads, head_dim = config.count("num_attention_heads"), config.head_dim()
    bias = config.boolean("attention_bias")
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.kv_heads(5),
        head_dim=head_dim,
        rope=config.rope(head_dim, 500000.0),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = _layer(attention, config.count("intermediate_size"), activation)
    return config.model("bitnet", [layer], default_context=2048, eps=("rms_norm_eps", 1e-5))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    """These files are of models with SiLU, which llama.cpp computes for this architecture."""
    head_dim = config.head_dim()
    attention = config.attention(head_dim, config.rope(head_dim), n_kv_heads=config.kv_heads())
    return config.model("bitnet", [_layer(attention, config.count("feed_forward_length"), "silu")])


def _layer(attention: AttentionSpec, hidden_dim: int, activation: str) -> LayerSpec:
    return LayerSpec(attention, FeedForwardSpec(hidden_dim, activation), sub_norms=True)


_HF_NAMES = {
    "layers.{i}.attention_sub_norm": "model.layers.{i}.self_attn.attn_sub_norm",
    "layers.{i}.ffn_sub_norm": "model.layers.{i}.mlp.ffn_sub_norm",
}
_GGUF_NAMES = {
    "layers.{i}.attention_sub_norm": "blk.{i}.attn_sub_norm",
    "layers.{i}.ffn_sub_norm": "blk.{i}.ffn_sub_norm",
}

FAMILY = Family(
    "bitnet",
    hf=HFSource(("BitNetForCausalLM",), from_hf, TensorNames(HF_NAMES | _HF_NAMES, HF_IGNORED)),
    gguf=GGUFSource("bitnet", from_gguf, TensorNames(GGUF_NAMES | _GGUF_NAMES, GGUF_IGNORED)),
)
