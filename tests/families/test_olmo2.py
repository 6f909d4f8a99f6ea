"""OLMo 2 and 3 on tiny random weights, held against transformers: windows passed, a context stretched."""

from dataclasses import replace

import family
import gguf
import transformers
from family import with_attention, with_older_rope, write_heads_and_base
from family_tests import FamilyTests

from exporter.families.olmo2 import FAMILY
from exporter.families.sources.hf import HFConfig

WINDOW = 8  # of prompts of 60 tokens
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 4.0, "beta_slow": 1.0}  # fmt: skip


def olmo3_fields(writer: gguf.GGUFWriter, config) -> None:
    rope = config.rope_parameters["full_attention"]
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])



class TestOlmo2(FamilyTests):
    case = family.Case(
        transformers.Olmo2ForCausalLM,
        gguf.MODEL_ARCH.OLMO2,
        {"num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        write_heads_and_base,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"biases, tied": {"attention_bias": True, "tie_word_embeddings": True}}
    without = {
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
        "epsilon": lambda config: replace(config, norm_eps=1.0),
        "rotation": lambda config: with_attention(config, rope=None),
    }


class TestOlmo3(FamilyTests):
    case = family.Case(
        transformers.Olmo3ForCausalLM,
        gguf.MODEL_ARCH.OLMO2,
        {"num_hidden_layers": 4, "sliding_window": WINDOW, "rope_parameters": {
            "full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }},
        olmo3_fields,
    )  # fmt: skip
    without = {
        "windows": lambda config: with_attention(config, window=None),
        "the stretched rotation": lambda config: with_attention(
            config, rope=config.layers[0].attention.rope
        ),
        "the others' rotation": lambda config: with_attention(
            config, rope=config.layers[3].attention.rope
        ),
    }


def test_a_published_config():
    """OLMo 3 7B's, in the spelling of transformers 4."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Olmo3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 11008, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
        "max_position_embeddings": 65536, "model_type": "olmo3", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 100277, "rms_norm_eps": 1e-06,
        "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
                         "factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"},
        "rope_theta": 500000, "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.57.1", "use_cache": True, "vocab_size": 100278,
    }))  # fmt: skip
    local, wide = (config.layers[i].attention for i in (0, 3))
    assert (local.window, local.rope.scaling, wide.window) == (4096, None, None)
    assert wide.rope.scaling.kind == "yarn" and wide.rope.theta == 5e5
    assert not config.layers[0].norm_in and config.layers[0].norm_out and wide.qk_norm == "width"
