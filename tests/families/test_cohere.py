"""Cohere 1 on tiny random weights, held against transformers."""

from dataclasses import replace

import family
import gguf
import pytest
import transformers
from family import with_attention, with_layers, with_older_rope
from family_tests import FamilyTests

from exporter.families.cohere import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.model.config import Rope

# Command R's.
PUBLISHED = {
    "architectures": ["CohereForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 5, "eos_token_id": 255001, "hidden_act": "silu", "hidden_size": 8192,
    "initializer_range": 0.02, "intermediate_size": 22528, "layer_norm_eps": 1e-05, "logit_scale": 0.0625,
    "max_position_embeddings": 8192, "model_max_length": 131072, "model_type": "cohere",
    "num_attention_heads": 64, "num_hidden_layers": 40, "num_key_value_heads": 64, "pad_token_id": 0,
    "pretraining_tp": 1, "rope_theta": 8000000.0, "torch_dtype": "float16",
    "transformers_version": "4.38.2", "use_cache": True, "vocab_size": 256000,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_logit_scale(config.logit_scale)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


class TestCohere(FamilyTests):
    case = family.Case(
        transformers.CohereForCausalLM,
        gguf.MODEL_ARCH.COMMAND_R,
        {"num_hidden_layers": 2, "head_dim": 16, "logit_scale": 0.3, "layer_norm_eps": 1e-3,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
        gguf_fields,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "layer norms": lambda config: with_layers(config, norm="rms"),
        "neighbours that rotate": lambda config: with_attention(config, rope=Rope(1e5, 16)),
        "the logits' scale": lambda config: replace(config, logit_scale=1.0),
    }


def test_a_published_config():
    config = FAMILY.hf.read(HFConfig(PUBLISHED))
    layer = config.layers[39]
    assert layer.parallel and layer.norm == "layer" and not layer.norm_bias
    assert layer.attention.rope == Rope(8e6, 128, interleaved=True) and config.logit_scale == 0.0625
    with pytest.raises(ValueError, match="use_qk_norm"):
        FAMILY.hf.read(HFConfig(PUBLISHED | {"use_qk_norm": True}))
