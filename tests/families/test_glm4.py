"""GLM-4 on tiny random weights, held against transformers."""

from dataclasses import replace

import family
import gguf
import transformers
from family import with_attention
from family_tests import FamilyTests

from exporter.families.glm4 import FAMILY
from exporter.families.sources.hf import HFConfig


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim // 2)


def older(config: dict) -> dict:
    rope = config["rope_parameters"]
    kept = {key: value for key, value in config.items() if key != "rope_parameters"}
    return kept | {name: rope[name] for name in ("rope_theta", "partial_rotary_factor")}


class TestGlm4(FamilyTests):
    case = family.Case(
        transformers.Glm4ForCausalLM,
        gguf.MODEL_ARCH.GLM4,
        {"num_hidden_layers": 2, "rms_norm_eps": 1e-5, "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
        }},
        gguf_fields,
        older=older,
    )  # fmt: skip
    variants = {"no biases, tied": {"attention_bias": False, "tie_word_embeddings": True}}
    without = {
        "norms of what is added": lambda config: replace(config, layers=tuple(
            replace(layer, norm_out=False) for layer in config.layers
        )),
        "neighbouring pairs": lambda config: with_rope(config, interleaved=False),
        "the part of a head": lambda config: with_rope(config, width=32),
    }  # fmt: skip


def with_rope(config, **change):
    return with_attention(config, rope=replace(config.layers[0].attention.rope, **change))


def test_a_published_config():
    """GLM-4-9B-0414's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Glm4ForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 13696, "max_position_embeddings": 32768,
        "model_type": "glm4", "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2,
        "pad_token_id": 151329, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0",
        "use_cache": True, "vocab_size": 151552,
    }))  # fmt: skip
    attention = config.layers[0].attention
    assert (attention.rope.width, attention.rope.interleaved, attention.head_dim) == (64, True, 128)
    assert attention.qkv_bias and not attention.output_bias and config.layers[0].norm_out
