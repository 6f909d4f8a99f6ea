"""Cohere 2 on tiny random weights, held against transformers: windows passed, layers without rotation."""

from dataclasses import replace

import family
import gguf
import transformers
from family import with_attention, with_layers, with_older_rope
from family_tests import FamilyTests

from exporter.families.cohere2 import FAMILY
from exporter.families.sources.hf import HFConfig


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_logit_scale(config.logit_scale)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def older(config: dict) -> dict:
    return with_older_rope(config) | {"sliding_window_pattern": 4}


class TestCohere2(FamilyTests):
    case = family.Case(
        transformers.Cohere2ForCausalLM,
        gguf.MODEL_ARCH.COHERE2,
        {"num_hidden_layers": 4, "head_dim": 16, "sliding_window": 8, "logit_scale": 0.3,
         "layer_norm_eps": 1e-3,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
        gguf_fields,
        older=older,
    )  # fmt: skip
    variants = {"biases": {"attention_bias": True}}
    without = {
        "layer norms": lambda config: with_layers(config, norm="rms"),
        "windows": lambda config: with_attention(config, window=None),
        "layers without rotation": lambda config: with_attention(
            config, rope=config.layers[0].attention.rope
        ),
        "neighbours that rotate": lambda config: replace(config, layers=tuple(
            layer if layer.attention.rope is None else replace(layer, attention=replace(
                layer.attention, rope=replace(layer.attention.rope, interleaved=False)))
            for layer in config.layers
        )),
        "the logits' scale": lambda config: replace(config, logit_scale=1.0),
        "epsilon": lambda config: replace(config, norm_eps=1e-1),
    }  # fmt: skip


def test_a_published_config():
    """Command R7B's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Cohere2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 5, "cache_implementation": "hybrid", "eos_token_id": 255001, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "layer_norm_eps": 1e-05, "layer_switch": 4, "logit_scale": 0.25, "max_position_embeddings": 8192,
        "model_type": "cohere2", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "order_of_interleaved_layers": "local_attn_first", "pad_token_id": 0,
        "position_embedding_type": "rope_gptj", "rope_scaling": None, "rope_theta": 50000, "rotary_pct": 1.0,
        "sliding_window": 4096, "sliding_window_pattern": 4, "torch_dtype": "bfloat16",
        "transformers_version": "4.48.0.dev0", "use_cache": True, "use_embedding_sharing": True,
        "use_gated_activation": True, "use_parallel_block": True, "use_parallel_embedding": False,
        "use_qk_norm": False, "vocab_size": 256000,
    }))  # fmt: skip
    assert [layer.attention.window for layer in config.layers] == [4096, 4096, 4096, None] * 8
    assert [layer.attention.rope is None for layer in config.layers] == [False, False, False, True] * 8
    assert config.tied_embeddings and config.logit_scale == 0.25
