"""SmolLM3 on tiny random weights, held against transformers: every fourth layer does not rotate."""

from dataclasses import replace

import family
import gguf
import pytest
import torch
import transformers
from family import with_attention, with_older_rope, write_heads_and_base
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, FamilyTests, far, run

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.smollm3 import FAMILY
from exporter.families.sources.hf import HFConfig

REAL = {
    "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 11008, "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False, "model_type": "smollm3",
    "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
    "num_hidden_layers": 36, "num_key_value_heads": 4, "pad_token_id": 128004, "pretraining_tp": 2,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
    "torch_dtype": "bfloat16", "transformers_version": "4.54.0.dev0", "use_cache": False,
    "use_sliding_window": False, "vocab_size": 128256,
}  # fmt: skip


class TestSmolLM3(FamilyTests):
    case = family.Case(
        transformers.SmolLM3ForCausalLM,
        gguf.MODEL_ARCH.SMOLLM3,
        {"num_hidden_layers": 5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        write_heads_and_base,
        permuted=True,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "layers without a rotation": lambda config: with_attention(
            config, rope=config.layers[0].attention.rope
        ),
        "layers with one": lambda config: with_attention(config, rope=None),
    }


def test_a_published_config():
    """SmolLM3-3B's."""
    config = FAMILY.hf.read(HFConfig(REAL))
    assert [layer.attention.rope is None for layer in config.layers] == [False, False, False, True] * 9
    assert config.tied_embeddings and config.context_length == 65536
    assert config.layers[0].attention.rope.theta == 5e6
    unsaid = {key: value for key, value in REAL.items() if key not in ("no_rope_layers", "layer_types")}
    assert FAMILY.hf.read(HFConfig(unsaid)) == config
    with pytest.raises(ValueError, match="no_rope_layers"):
        FAMILY.hf.read(HFConfig(REAL | {"no_rope_layers": [1, 0]}))


def test_layers_without_a_rotation_may_have_windows(tmp_path):
    """In Hugging Face's form alone."""
    model = family.make_hf(
        tmp_path, TestSmolLM3.case, use_sliding_window=True, sliding_window=8, no_rope_layers=[0, 1, 1, 0, 1]
    )
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    checkpoint = open_checkpoint(str(tmp_path))
    assert [layer.attention.window for layer in checkpoint.config.layers] == [8, None, None, 8, None]
    assert far(run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH), expected) < MAX_ERROR
    nowhere = replace(checkpoint, config=with_attention(checkpoint.config, window=None))
    assert far(run(load_model(nowhere, torch.float32, CONTEXT), LENGTH), expected) > 10 * MAX_ERROR
