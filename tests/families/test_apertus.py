"""Apertus on tiny random weights, held against transformers: the learned activation of each layer."""

from dataclasses import replace

import family
import gguf
import numpy as np
import pytest
import torch
import transformers
from family import with_attention, with_feed_forward, write_heads_and_base
from family_tests import FamilyTests
from safetensors.torch import load_file, save_file

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families.apertus import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.llama3_rope import llama3_divisors
from exporter.model.config import Rope, RopeScaling, Xielu

LAYERS = 2
SCALING = RopeScaling("llama3", 8.0, original_context_length=32)
PUBLISHED = {
    "architectures": ["ApertusForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 68, "hidden_act": "xielu", "hidden_dropout": 0.0, "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 21504, "max_position_embeddings": 65536,
    "mlp_bias": False, "model_type": "apertus", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "pad_token_id": 3, "post_norm": False, "qk_norm": True, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3", "type": "llama3"},
    "rope_theta": 12000000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.56.0.dev0", "use_cache": True, "vocab_size": 131072,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    divisors = llama3_divisors(Rope(1e5, config.head_dim, SCALING))
    writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))


def write_activations(writer: gguf.GGUFWriter, model: transformers.PreTrainedModel) -> None:
    activations = [layer.mlp.act_fn for layer in model.model.layers]
    for name in ("alpha_p", "alpha_n", "beta", "eps"):
        numbers = [getattr(activation, name).float().item() for activation in activations]
        getattr(writer, f"add_xielu_{name}")(numbers)


class TestApertus(FamilyTests):
    case = family.Case(
        transformers.ApertusForCausalLM,
        gguf.MODEL_ARCH.APERTUS,
        {"num_hidden_layers": LAYERS, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e5, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
        gguf_fields,
        gguf_tensors=lambda name, tensor: {} if ".act_fn." in name else {name: tensor},
        gguf_of_model=write_activations,
    )  # fmt: skip
    variants = {"biases, tied": {"attention_bias": True, "tie_word_embeddings": True}}
    without = {
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
        "each layer's own activation": lambda config: with_feed_forward(
            config, xielu=config.layers[0].feed_forward.xielu
        ),
        "softplus": lambda config: with_feed_forward(config, xielu=Xielu(0.1, 0.6)),
        "rope scaling": lambda config: with_attention(config, rope=Rope(1e5, 32)),
        "epsilon": lambda config: replace(config, norm_eps=1e-2),
    }


def test_a_published_config():
    """Apertus-8B-Instruct-2509's."""
    stored = {"alpha_p": [0.2], "alpha_n": [-0.4], "beta": [0.5], "eps": [-1e-6]}
    config = FAMILY.hf.read(HFConfig(PUBLISHED, lambda name: stored[name.rpartition(".")[2]]))
    attention, ffn = config.layers[31].attention, config.layers[31].feed_forward
    assert (attention.n_heads, attention.n_kv_heads, attention.head_dim) == (32, 8, 128)
    assert attention.rope == Rope(12000000, 128, RopeScaling("llama3", 8.0))
    expected = torch.nn.functional.softplus(torch.tensor([0.2, -0.4], dtype=torch.float64)).tolist()
    assert ffn.xielu.alpha_p == pytest.approx(expected[0])
    assert ffn.xielu.alpha_n == pytest.approx(expected[1] + 0.5)


def test_a_file_without_its_activations_parameters(tmp_path):
    family.make_hf(tmp_path, TestApertus.case)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("model.layers.1.mlp.act_fn.alpha_n")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match="layers.1.mlp.act_fn.alpha_n does not hold one number"):
        open_checkpoint(str(tmp_path))
