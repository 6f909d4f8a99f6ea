"""ERNIE 4.5, dense, on tiny random weights, held against transformers: neighbouring pairs turn."""

from dataclasses import replace

import family
import gguf
import transformers
from family import with_attention, with_older_rope, write_heads_and_base
from family_tests import FamilyTests

from exporter.families.ernie4_5 import FAMILY
from exporter.families.sources.hf import HFConfig


class TestErnie45(FamilyTests):
    case = family.Case(
        transformers.Ernie4_5ForCausalLM,
        gguf.MODEL_ARCH.ERNIE4_5,
        {"num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        write_heads_and_base,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"biases, untied": {"use_bias": True, "tie_word_embeddings": False}}
    without = {
        "neighbouring pairs": lambda config: with_attention(
            config, rope=replace(config.layers[0].attention.rope, interleaved=False)
        ),
    }


def test_a_published_config():
    """ERNIE-4.5-0.3B's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Ernie4_5_ForCausalLM"], "auto_map": {"AutoModel": "modeling_ernie4_5.Model"},
        "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 131072, "model_type": "ernie4_5",
        "num_attention_heads": 16, "num_hidden_layers": 18, "num_key_value_heads": 2, "pad_token_id": 0,
        "rms_norm_eps": 1e-05, "rope_theta": 500000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "use_bias": False, "use_cache": False, "vocab_size": 103424,
    }))  # fmt: skip
    attention = config.layers[0].attention
    assert attention.rope.interleaved and attention.rope.theta == 5e5 and attention.head_dim == 128
    assert config.tied_embeddings and not attention.qkv_bias
