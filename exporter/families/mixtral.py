"""Mixtral: Mistral's layers with a mixture of experts, in Hugging Face's form.

Its GGUF files are of the architecture `llama`, which families/llama.py reads.
Source: transformers' MixtralConfig and modeling_mixtral (arXiv 2401.04088).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, HFSource, TensorNames
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig

HF_MIXTRAL = {
    "layers.{i}.feed_forward.router": "model.layers.{i}.block_sparse_moe.gate",
    **{
        f"layers.{{i}}.feed_forward.{expert}": f"model.layers.{{i}}.block_sparse_moe.{expert}"
        for expert in ("experts.{n}.w1", "experts.{n}.w2", "experts.{n}.w3")
    },
}


def from_hf(config: HFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    config.only("hidden_act", "silu")
    config.ignore("router_jitter_noise")  # training
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads"),
        n_kv_heads=config.count("num_key_value_heads", 8),
        head_dim=head_dim,
        rope=config.rope(head_dim, 1e6),
        window=config.window("sliding_window", None),
    )
    experts = config.experts(config.count("num_local_experts", 8), 2, renormalize=True)
    feed_forward = FeedForwardSpec(config.count("intermediate_size"), experts=experts)
    return config.model(
        "mixtral", [LayerSpec(attention, feed_forward)], default_context=131072, eps=("rms_norm_eps", 1e-5)
    )


FAMILY = Family(
    "mixtral",
    hf=HFSource(("MixtralForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_MIXTRAL, HF_IGNORED)),
)
