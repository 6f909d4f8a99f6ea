"""Nemotron on tiny random weights, held against transformers: layer norms that add 1, half-rotated heads."""

from dataclasses import replace

import family
import gguf
import pytest
import transformers
from family import with_attention, with_feed_forward, with_layers
from family_tests import FamilyTests

from exporter.families.nemotron import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.model.config import Rope

# Nemotron-Mini-4B-Instruct's.
PUBLISHED = {
    "architectures": ["NemotronForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 2, "eos_token_id": 3, "head_dim": 128, "hidden_act": "relu2", "hidden_size": 3072,
    "initializer_range": 0.0134, "intermediate_size": 9216, "max_position_embeddings": 4096,
    "mlp_bias": False, "model_type": "nemotron", "norm_eps": 1e-05, "num_attention_heads": 24,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "partial_rotary_factor": 0.5, "rope_theta": 10000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
    "use_cache": True, "vocab_size": 256000,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_eps(config.norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    # As the converter computes it: of heads that share the model's width.
    part = int(rope["partial_rotary_factor"] * config.hidden_size) // config.num_attention_heads
    writer.add_rope_dimension_count(part)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def older(config: dict) -> dict:
    rope = config["rope_parameters"]
    kept = {key: value for key, value in config.items() if key != "rope_parameters"}
    return kept | {name: rope[name] for name in ("rope_theta", "partial_rotary_factor")}


class TestNemotron(FamilyTests):
    case = family.Case(
        transformers.NemotronForCausalLM,
        gguf.MODEL_ARCH.NEMOTRON,
        {"num_hidden_layers": 2, "head_dim": 16, "norm_eps": 1e-3,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}},
        gguf_fields,
        norm_offset=1.0,
        older=older,
    )  # fmt: skip
    variants = {
        "biases, tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    }
    without = {
        "layer norms": lambda config: with_layers(config, norm="rms", norm_bias=False),
        "norms' biases": lambda config: with_layers(config, norm_bias=False),
        "the activation": lambda config: with_feed_forward(config, activation="silu"),
        "half of the head": lambda config: with_attention(config, rope=Rope(1e5, 16)),
        "epsilon": lambda config: replace(config, norm_eps=1e-1),
    }


def test_a_published_config():
    config = FAMILY.hf.read(HFConfig(PUBLISHED))
    with pytest.raises(ValueError, match="partial_rotary_factor is 2"):
        FAMILY.hf.read(HFConfig(PUBLISHED | {"partial_rotary_factor": 2}))
    layer = config.layers[31]
    assert (layer.attention.n_heads, layer.attention.n_kv_heads, layer.attention.head_dim) == (24, 8, 128)
    assert layer.attention.rope == Rope(10000, 64) and not layer.feed_forward.gated
    assert not config.tied_embeddings and config.context_length == 4096
