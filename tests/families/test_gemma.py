"""Gemma 1 on tiny random weights, held against transformers."""

from dataclasses import replace

import family
import gguf
import transformers
from family import with_attention, with_feed_forward, with_older_rope
from family_tests import FamilyTests

from exporter.families.gemma import FAMILY
from exporter.families.sources.hf import HFConfig


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


class TestGemma(FamilyTests):
    case = family.Case(
        transformers.GemmaForCausalLM,
        gguf.MODEL_ARCH.GEMMA,
        {"num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        gguf_fields,
        norm_offset=1.0,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "rotation": lambda config: with_attention(config, rope=None),
        "the embedding's scale": lambda config: replace(config, embedding_scale=1.0),
        "the activation": lambda config: with_feed_forward(config, activation="silu"),
    }


def test_a_published_config():
    """Gemma 2B's, whose first version named the activation by half."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["GemmaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 2, "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu",
        "hidden_activation": None, "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 16384,
        "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
        "transformers_version": "4.38.0.dev0", "use_cache": True, "vocab_size": 256000,
    }))  # fmt: skip
    assert config.layers[0].feed_forward.activation == "gelu_tanh"
    assert config.tied_embeddings and config.embedding_scale == 2048**0.5
    assert config.layers[0].attention.head_dim == 256
