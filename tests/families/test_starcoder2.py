"""StarCoder 2 on tiny random weights, held against transformers: layer norms, no gate, biases."""

from dataclasses import replace

import family
import gguf
import torch
import transformers
from family import with_attention, with_feed_forward, with_layers, with_older_rope
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, FamilyTests, far, run

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.sources.hf import HFConfig
from exporter.families.starcoder2 import FAMILY


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


class TestStarcoder2(FamilyTests):
    case = family.Case(
        transformers.Starcoder2ForCausalLM,
        gguf.MODEL_ARCH.STARCODER2,
        {"num_hidden_layers": 2, "head_dim": 16, "norm_epsilon": 1e-3,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
        gguf_fields,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"no biases, untied": {"use_bias": False, "tie_word_embeddings": False}}
    without = {
        "layer norms": lambda config: with_layers(config, norm="rms", norm_bias=False),
        "norms' biases": lambda config: with_layers(config, norm_bias=False),
        "biases of the feed-forward": lambda config: with_feed_forward(config, bias=False),
        "biases of queries, keys and values": lambda config: with_attention(config, qkv_bias=False),
        "the activation": lambda config: with_feed_forward(config, activation="silu"),
        "epsilon": lambda config: replace(config, norm_eps=1e-1),
    }


def test_windows(tmp_path):
    """In Hugging Face's form alone: GGUF files of this architecture have none."""
    made = family.make_hf(tmp_path, TestStarcoder2.case, sliding_window=8)
    with torch.no_grad():
        expected = made(torch.tensor([TOKENS])).logits[0].float().numpy()
    checkpoint = open_checkpoint(str(tmp_path))
    assert {layer.attention.window for layer in checkpoint.config.layers} == {8}
    assert far(run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH), expected) < MAX_ERROR


def test_a_published_config():
    """StarCoder2-3B's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "bos_token_id": 0,
        "embedding_dropout": 0.1, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072,
        "initializer_range": 0.018042, "intermediate_size": 12288, "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2",
        "norm_epsilon": 1e-05, "norm_type": "layer_norm", "num_attention_heads": 24, "num_hidden_layers": 30,
        "num_key_value_heads": 2, "residual_dropout": 0.1, "rope_theta": 999999.4420358813,
        "sliding_window": 4096, "torch_dtype": "bfloat16", "transformers_version": "4.39.0.dev0",
        "use_bias": True, "use_cache": True, "vocab_size": 49152,
    }))  # fmt: skip
    layer = config.layers[29]
    assert (layer.attention.n_heads, layer.attention.n_kv_heads, layer.attention.head_dim) == (24, 2, 128)
    assert layer.attention.window == 4096 and layer.norm == "layer" and layer.norm_bias
    assert config.tied_embeddings and config.context_length == 16384
