"""Qwen3 on tiny random weights, held against transformers."""

from dataclasses import replace

import family
import gguf
import transformers
from family_tests import FamilyTests

from exporter.model.config import ModelConfig


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def older(config: dict) -> dict:
    rope = config["rope_parameters"]
    kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types")}
    return kept | {"rope_theta": rope["rope_theta"], "rope_scaling": None}


def with_attention(config: ModelConfig, **change) -> ModelConfig:
    layers = (replace(layer, attention=replace(layer.attention, **change)) for layer in config.layers)
    return replace(config, layers=tuple(layers))


class TestQwen3(FamilyTests):
    case = family.Case(
        transformers.Qwen3ForCausalLM,
        gguf.MODEL_ARCH.QWEN3,
        {"num_hidden_layers": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        gguf_fields,
        older=older,
    )  # fmt: skip
    without = {
        "rotation": lambda config: with_attention(config, rope=None),
        "epsilon": lambda config: replace(config, norm_eps=1e-2),
    }
