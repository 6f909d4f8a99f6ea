"""Qwen2 on tiny random weights, held against transformers: biases in, windows passed."""

from dataclasses import replace

import family
import gguf
import pytest
import tiny
import torch
import transformers
from family import with_attention, with_older_rope, write_heads_and_base
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, FamilyTests, far, run

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.qwen2 import FAMILY
from exporter.families.sources.hf import HFConfig

WINDOW = 8  # of prompts of 60 tokens
# config.json of Qwen2.5-0.5B, as it is on the hub.
REAL = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
    "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
    "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True, "use_mrope": False,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip


class TestQwen2(FamilyTests):
    case = family.Case(
        transformers.Qwen2ForCausalLM,
        gguf.MODEL_ARCH.QWEN2,
        {"num_hidden_layers": 2, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        write_heads_and_base,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "biases": lambda config: with_attention(config, qkv_bias=False),
        "rotation": lambda config: with_attention(config, rope=None),
        "epsilon": lambda config: replace(config, norm_eps=1e-2),
    }


def test_later_layers_have_windows(tmp_path):
    """In Hugging Face's form alone: GGUF files of this architecture have no windows."""
    case, windows = TestQwen2.case, {"use_sliding_window": True, "sliding_window": WINDOW}
    made = family.make_hf(tmp_path, case, num_hidden_layers=3, max_window_layers=1, **windows)
    with torch.no_grad():
        expected = made(torch.tensor([TOKENS])).logits[0].float().numpy()
    checkpoint = open_checkpoint(str(tmp_path))
    assert [layer.attention.window for layer in checkpoint.config.layers] == [None, WINDOW, WINDOW]
    for chunk in (LENGTH, 7):
        assert far(run(load_model(checkpoint, torch.float32, CONTEXT), chunk), expected) < MAX_ERROR
    everywhere = replace(checkpoint, config=with_attention(checkpoint.config, window=WINDOW))
    nowhere = replace(checkpoint, config=with_attention(checkpoint.config, window=None))
    for other in (everywhere, nowhere):
        assert far(run(load_model(other, torch.float32, CONTEXT), LENGTH), expected) > 10 * MAX_ERROR
    tiny.write_json(tmp_path / "config.json", with_older_rope(tiny.read_json(tmp_path / "config.json")))
    assert open_checkpoint(str(tmp_path)).config == checkpoint.config


def test_a_real_config():
    config = FAMILY.hf.read(HFConfig(REAL))
    attention = config.layers[23].attention
    assert (attention.n_heads, attention.n_kv_heads, attention.head_dim) == (14, 2, 64)
    assert attention.qkv_bias and not attention.output_bias and attention.window is None
    assert config.tied_embeddings and config.context_length == 32768
    with pytest.raises(ValueError, match="use_mrope"):
        FAMILY.hf.read(HFConfig(REAL | {"use_mrope": True}))


@pytest.mark.parametrize("change", [
    {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
    {"use_sliding_window": False, "sliding_window": WINDOW, "max_window_layers": 0},
    {"use_sliding_window": False, "sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 24},
])  # fmt: skip
def test_windows_that_transformers_does_not_use(change):
    config = FAMILY.hf.read(HFConfig(REAL | change))
    assert {layer.attention.window for layer in config.layers} == {None}
