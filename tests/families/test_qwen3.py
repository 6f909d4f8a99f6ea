"""Qwen3 on tiny random weights, held against transformers."""

from dataclasses import replace

import family
import gguf
import torch
import transformers
from family import with_attention, with_older_rope, write_heads_and_base
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, ThoroughFamilyTests, far, run

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.qwen3 import FAMILY
from exporter.families.sources.hf import HFConfig


class TestQwen3(ThoroughFamilyTests):
    case = family.Case(
        transformers.Qwen3ForCausalLM,
        gguf.MODEL_ARCH.QWEN3,
        {"num_hidden_layers": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        write_heads_and_base,
        older=with_older_rope,
    )  # fmt: skip
    variants = {
        "biases, untied": {"attention_bias": True, "tie_word_embeddings": False},
    }
    without = {
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
        "rotation": lambda config: with_attention(config, rope=None),
        "epsilon": lambda config: replace(config, norm_eps=1e-2),
    }


def test_a_published_config():
    """Qwen3-0.6B's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
        "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
        "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    }))  # fmt: skip
    attention = config.layers[27].attention
    assert (attention.n_heads, attention.n_kv_heads, attention.head_dim) == (16, 8, 128)
    assert attention.qk_norm == "head" and attention.window is None and attention.rope.theta == 1e6
    assert len(config.layers) == 28 and config.tied_embeddings and config.context_length == 40960


def test_later_layers_have_windows(tmp_path):
    """In Hugging Face's form alone, as Qwen2's."""
    model = family.make_hf(
        tmp_path, TestQwen3.case, num_hidden_layers=3, max_window_layers=1, use_sliding_window=True,
        sliding_window=8,
    )  # fmt: skip
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    checkpoint = open_checkpoint(str(tmp_path))
    assert [layer.attention.window for layer in checkpoint.config.layers] == [None, 8, 8]
    assert far(run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH), expected) < MAX_ERROR
