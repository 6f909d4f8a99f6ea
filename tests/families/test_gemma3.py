"""Gemma 3 on tiny random weights, held against transformers: windows passed, both rotary bases."""

from dataclasses import replace

import family
import gguf
import pytest
import transformers
from family import with_attention
from family_tests import ThoroughFamilyTests

from exporter.families.gemma3 import FAMILY
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.registry import hf_family

WINDOW = 8  # of prompts of 60 tokens


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.rope_parameters["full_attention"]["factor"])
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def older(config: dict) -> dict:
    ropes = config["rope_parameters"]
    dropped = ("rope_parameters", "layer_types", "_sliding_window_pattern")
    kept = {key: value for key, value in config.items() if key not in dropped}
    return kept | {
        "rope_theta": ropes["full_attention"]["rope_theta"],
        "rope_local_base_freq": ropes["sliding_attention"]["rope_theta"],
        "rope_scaling": {"rope_type": "linear", "factor": ropes["full_attention"]["factor"]},
        "sliding_window_pattern": 6,
    }


class TestGemma3(ThoroughFamilyTests):
    case = family.Case(
        transformers.Gemma3ForCausalLM,
        gguf.MODEL_ARCH.GEMMA3,
        {"num_hidden_layers": 7, "sliding_window": WINDOW, "query_pre_attn_scalar": 32,
         "rope_parameters": {
             "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
         }},
        gguf_fields,
        norm_offset=1.0,
        older=older,
    )  # fmt: skip
    rotates = "attention_out_norm"
    variants = {
        "biases, untied": {"attention_bias": True, "tie_word_embeddings": False},
        "a soft cap of logits": {"final_logit_softcapping": 2.0},
    }
    without = {
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
        "norms of what is added": lambda config: replace(config, layers=tuple(
            replace(layer, norm_out=False) for layer in config.layers
        )),
        "windows": lambda config: with_attention(config, window=None),
        "the other rotary base": lambda config: with_attention(
            config, rope=config.layers[0].attention.rope
        ),
        "the scores' scale": lambda config: with_attention(config, scale=1 / 8),
        "the embedding's scale": lambda config: replace(config, embedding_scale=1.0),
        "the activation": lambda config: replace(config, layers=tuple(
            replace(layer, feed_forward=replace(layer.feed_forward, activation="silu"))
            for layer in config.layers
        )),
    }  # fmt: skip


def test_the_largest_models_scores_are_scaled_by_its_width():
    """Gemma 3 27B: 5376 / 32 in place of the head's width of 128, which its GGUF files do not say."""
    fields = {
        "general.architecture": "gemma3", "gemma3.block_count": 62, "gemma3.embedding_length": 5376,
        "gemma3.feed_forward_length": 21504, "gemma3.attention.head_count": 32,
        "gemma3.attention.head_count_kv": 16, "gemma3.attention.key_length": 128,
        "gemma3.attention.value_length": 128, "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": 1024, "gemma3.context_length": 131072,
        "gemma3.rope.freq_base": 1e6,
    }  # fmt: skip
    config = FAMILY.gguf.read(GGUFConfig(fields, {"token_embd.weight": (262208, 5376)}, None))
    assert {layer.attention.scale for layer in config.layers} == {168**-0.5}
    assert [layer.attention.window for layer in config.layers[:6]] == [1024] * 5 + [None]
    four = FAMILY.gguf.read(GGUFConfig(
        fields | {"gemma3.block_count": 34, "gemma3.embedding_length": 2560},
        {"token_embd.weight": (262208, 2560)}, None,
    ))  # fmt: skip
    assert {layer.attention.scale for layer in four.layers} == {128**-0.5}


def test_a_published_config():
    """Gemma 3 1B's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid",
        "eos_token_id": [1, 106], "final_logit_softcapping": None, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "initializer_range": 0.02,
        "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "pad_token_id": 0,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "use_cache": True,
        "vocab_size": 262144,
    }))  # fmt: skip
    windows = [layer.attention.window for layer in config.layers]
    assert windows == ([512] * 5 + [None]) * 4 + [512] * 2
    assert [layer.attention.rope.theta for layer in config.layers[4:6]] == [1e4, 1e6]
    assert config.tied_embeddings and config.embedding_scale == 1152**0.5


def test_images_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="Gemma3ForConditionalGeneration .* images.* GGUF file"):
        hf_family({"architectures": ["Gemma3ForConditionalGeneration"]})


def test_a_damaged_count_of_layers_ends_at_once():
    fields = {"general.architecture": "gemma3", "gemma3.block_count": 10**9, "gemma3.embedding_length": 64,
              "gemma3.attention.head_count": 4}  # fmt: skip
    with pytest.raises(ValueError, match="1000000000, more than 1000"):
        FAMILY.gguf.read(GGUFConfig(fields, {"token_embd.weight": (8, 64)}, None))
