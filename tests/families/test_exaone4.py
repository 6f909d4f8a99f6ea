"""EXAONE 4 on tiny random weights, held against transformers: windows passed, where layers rotate."""

import family
import gguf
import pytest
import transformers
from family import with_attention, with_older_rope, write_heads_and_base
from family_tests import FamilyTests

from exporter.families.exaone4 import FAMILY
from exporter.families.sources.hf import HFConfig

WINDOW = 8  # of prompts of 60 tokens
REAL = {
    "architectures": ["Exaone4ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 361,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
    "intermediate_size": 27392, "max_position_embeddings": 131072, "model_type": "exaone4",
    "num_attention_heads": 40, "num_hidden_layers": 64, "num_key_value_heads": 8, "pad_token_id": 0,
    "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 1000000,
    "sliding_window": 4096, "sliding_window_pattern": "LLLG", "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.54.0", "use_cache": True, "vocab_size": 102400,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    writer.add_vocab_size(config.vocab_size)
    if config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])


class TestExaone4(FamilyTests):
    case = family.Case(
        transformers.Exaone4ForCausalLM,
        gguf.MODEL_ARCH.EXAONE4,
        {"num_hidden_layers": 4, "sliding_window": WINDOW, "sliding_window_pattern": 4,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        gguf_fields,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"no windows": {"sliding_window": None, "layer_types": ["full_attention"] * 4}}
    without = {
        "windows": lambda config: with_attention(config, window=None),
        "the layer without a rotation": lambda config: with_attention(
            config, rope=config.layers[0].attention.rope
        ),
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
    }


def test_a_published_config():
    """EXAONE 4.0 32B's."""
    config = FAMILY.hf.read(HFConfig(REAL))
    assert [layer.attention.window for layer in config.layers] == ([4096] * 3 + [None]) * 16
    assert [layer.attention.rope is None for layer in config.layers[:4]] == [False, False, False, True]
    assert config.layers[0].attention.rope.scaling.kind == "llama3"
    everywhere = FAMILY.hf.read(HFConfig(REAL | {"sliding_window": None}))
    assert {layer.attention.window for layer in everywhere.layers} == {None}
    assert all(layer.attention.rope is not None for layer in everywhere.layers)
    with pytest.raises(ValueError, match="sliding_window_pattern"):
        FAMILY.hf.read(HFConfig(REAL | {"sliding_window_pattern": "LLX"}))
