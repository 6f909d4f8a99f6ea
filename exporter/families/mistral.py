"""Mistral 7B and its successors: Llama's layers with a window, in Hugging Face's form.

Its GGUF files are of the architecture `llama`, its own format is Meta's: families/llama.py reads both.
Source: transformers' MistralConfig (arXiv 2310.06825).
"""

from __future__ import annotations

from exporter.families.sources.family import Family, HFSource, TensorNames
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig


def from_hf(config: HFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    config.only("hidden_act", "silu")
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    attention = AttentionSpec(
        n_heads=config.count("num_attention_heads"),
        n_kv_heads=config.count("num_key_value_heads", 8),
        head_dim=head_dim,
        rope=config.rope(head_dim),
        # An explicit null switches the window off; an absent field has the class's default.
        window=config.window("sliding_window", 4096),
    )
    feed_forward = FeedForwardSpec(config.count("intermediate_size"))
    return config.model("mistral", [LayerSpec(attention, feed_forward)], default_context=131072)


FAMILY = Family(
    "mistral", hf=HFSource(("MistralForCausalLM",), from_hf, TensorNames(HF_NAMES, HF_IGNORED))
)
