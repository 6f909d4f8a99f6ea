"""Granite 3 and dense Granite 4 on tiny random weights, held against transformers: every multiplier felt."""

from dataclasses import replace

import family
import gguf
import pytest
import torch
import transformers
from family import with_attention, with_older_rope
from family_tests import FamilyTests

from exporter.families.granite import FAMILY
from exporter.families.granitehybrid import FAMILY as HYBRID
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig

MULTIPLIERS = {
    "embedding_multiplier": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.22,
    "logits_scaling": 6.0, "rms_norm_eps": 1e-3,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
HYBRID_CONFIG = {
    "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2, "num_local_experts": 0,
    "shared_intermediate_size": 96, "intermediate_size": 32, "position_embedding_type": "rope",
    "mamba_n_heads": 4, "tie_word_embeddings": True,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def hybrid_fields(writer: gguf.GGUFWriter, config) -> None:
    gguf_fields(writer, config)
    writer.add_expert_shared_feed_forward_length(config.shared_intermediate_size)
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_state_size(config.mamba_d_state)


def hybrid_tensors(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if "shared_mlp.input_linear" in name:
        gate, up = tensor.chunk(2)
        return {name.replace("shared_mlp.input_linear", f"mlp.{x}_proj"): part
                for x, part in (("gate", gate), ("up", up))}  # fmt: skip
    return {name.replace("shared_mlp.output_linear", "mlp.down_proj"): tensor}


class TestGranite(FamilyTests):
    case = family.Case(
        transformers.GraniteForCausalLM,
        gguf.MODEL_ARCH.GRANITE,
        {"num_hidden_layers": 2, **MULTIPLIERS, **ROPE},
        gguf_fields,
        permuted=True,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"biases, tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}}
    without = {
        "the embedding's multiplier": lambda config: replace(
            config, embedding_scale=config.embedding_scale / 3
        ),
        "the scores' multiplier": lambda config: with_attention(config, scale=None),
        "the residual's multiplier": lambda config: replace(config, embedding_scale=3.0, norm_eps=1e-3),
        "the epsilon that goes with it": lambda config: replace(config, norm_eps=1e-3),
        "the logits' divisor": lambda config: replace(config, logit_scale=1.0),
    }


class TestGraniteHybrid(FamilyTests):
    """GGUF files of these models are of the architecture `granite`."""

    case = family.Case(
        transformers.GraniteMoeHybridForCausalLM,
        gguf.MODEL_ARCH.GRANITE,
        {**HYBRID_CONFIG, **MULTIPLIERS, **ROPE},
        hybrid_fields,
        permuted=True,
        gguf_tensors=hybrid_tensors,
    )  # fmt: skip
    without = {
        "rotation": lambda config: with_attention(config, rope=None),
        "the residual's multiplier": lambda config: replace(config, embedding_scale=3.0, norm_eps=1e-3),
    }


REAL = {
    "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "granite",
    "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0,
    "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 5000000.0,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.47.0.dev0",
    "use_cache": True, "vocab_size": 49155,
}  # fmt: skip
REAL_HYBRID = {key: value for key, value in REAL.items() if key != "mlp_bias"} | {
    "architectures": ["GraniteMoeHybridForCausalLM"], "init_method": "mup",
    "layer_types": ["attention"] * 40, "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_d_conv": 4,
    "mamba_d_head": 64, "mamba_d_state": 256, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 64,
    "mamba_proj_bias": False, "model_type": "granitemoehybrid", "normalization_function": "rmsnorm",
    "num_experts_per_tok": 0, "num_local_experts": 0, "output_router_logits": False,
    "position_embedding_type": "rope", "router_aux_loss_coef": 0.01, "shared_intermediate_size": 8192,
}  # fmt: skip


def test_published_configs():
    """Granite 3.3 2B's, and Granite 4.0 Micro's, which differ in names."""
    config = FAMILY.hf.read(HFConfig(REAL))
    assert (config.layers[0].attention.scale, config.logit_scale) == (1 / 64, 1 / 8)
    assert config.embedding_scale == pytest.approx(12 / 0.22)
    assert config.norm_eps == pytest.approx(1e-5 / 0.22**2)
    assert replace(HYBRID.hf.read(HFConfig(REAL_HYBRID)), family="granite") == config
    nowhere = HYBRID.hf.read(HFConfig(REAL_HYBRID | {"position_embedding_type": "nope"}))
    assert {layer.attention.rope for layer in nowhere.layers} == {None}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer_types": ["mamba"] * 36 + ["attention"] * 4}, "36 layers of kind 'mamba'.*dense"),
        ({"layer_types": None}, "mamba"),
        ({"layer_types": ["attention"] * 3}, "a kind for each layer"),
        ({"num_local_experts": 64}, "64.*dense"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type"),
    ],
)
def test_hybrids_and_experts_are_refused(change: dict, named: str):
    with pytest.raises(ValueError, match=named):
        HYBRID.hf.read(HFConfig(REAL_HYBRID | change))


def test_older_gguf_files_of_the_hybrid_architecture():
    fields = {
        "general.architecture": "granitehybrid", "granitehybrid.block_count": 3,
        "granitehybrid.embedding_length": 64, "granitehybrid.feed_forward_length": 96,
        "granitehybrid.attention.head_count": 4, "granitehybrid.attention.head_count_kv": [2, 2, 2],
        "granitehybrid.attention.layer_norm_rms_epsilon": 1e-5, "granitehybrid.context_length": 4096,
        "granitehybrid.embedding_scale": 12.0, "granitehybrid.residual_scale": 0.5,
        "granitehybrid.ssm.conv_kernel": 4, "granitehybrid.rope.scaling.finetuned": True,
    }  # fmt: skip
    shapes = {"token_embd.weight": (512, 64)}
    config = HYBRID.gguf.read(GGUFConfig(fields, shapes, None))
    assert (config.embedding_scale, config.norm_eps, config.layers[0].attention.n_kv_heads) == (24.0, 4e-5, 2)
    for change, named in (
        ({"granitehybrid.attention.head_count_kv": [2, 0, 2]}, "1 layers, those of state spaces"),
        ({"granitehybrid.expert_count": 62}, "62"),
    ):
        with pytest.raises(ValueError, match=named):
            HYBRID.gguf.read(GGUFConfig(fields | change, shapes, None))
