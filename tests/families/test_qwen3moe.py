"""Qwen3's mixtures of experts on tiny random weights, held against transformers."""

import family
import gguf
import numpy as np
import pytest
import torch
import transformers
from family import with_attention, with_feed_forward, with_older_rope, write_heads_and_base
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, ThoroughFamilyTests, far, run

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.qwen3moe import FAMILY
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.model.config import Experts


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def older(config: dict) -> dict:
    return with_older_rope(config) | {"num_experts": config["num_local_experts"], "num_local_experts": None}


class TestQwen3Moe(ThoroughFamilyTests):
    case = family.Case(
        transformers.Qwen3MoeForCausalLM,
        gguf.MODEL_ARCH.QWEN3MOE,
        {"num_hidden_layers": 2, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
         "norm_topk_prob": True, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        gguf_fields,
        gguf_tensors=family.experts_apart,
        older=older,
    )  # fmt: skip
    without = {
        "an expert": lambda config: with_feed_forward(config, experts=Experts(8, 2, True)),
        "factors of the chosen alone": lambda config: with_feed_forward(
            config, experts=Experts(8, 3, False)
        ),
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
    }
    calibrates = False

    def coarse(self, actual, expected):
        """The median position's: where two experts are all but equally likely, rounding chooses the other."""
        return float(np.median(np.abs(actual - expected).max(1)) / np.abs(expected).max())


@pytest.mark.parametrize(
    ("change", "experts"),
    [
        ({"norm_topk_prob": False}, [True, True, True]),
        ({"mlp_only_layers": [0], "intermediate_size": 96}, [False, True, True]),
        ({"decoder_sparse_step": 2}, [False, True, False]),
        ({"use_sliding_window": True, "sliding_window": 8}, [True, True, True]),
    ],
)
def test_what_hugging_faces_form_alone_says(change, experts, tmp_path):
    model = family.make_hf(tmp_path, TestQwen3Moe.case, num_hidden_layers=3, **change)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    checkpoint = open_checkpoint(str(tmp_path))
    assert [layer.feed_forward.experts is not None for layer in checkpoint.config.layers] == experts
    assert far(run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH), expected) < MAX_ERROR


PUBLISHED = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
    "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": True,
    "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
    "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip


def test_a_published_config():
    """Qwen3-30B-A3B's."""
    config = FAMILY.hf.read(HFConfig(PUBLISHED))
    assert {layer.feed_forward.experts for layer in config.layers} == {Experts(128, 8, renormalize=True)}
    assert config.layers[0].feed_forward.hidden_dim == 768 and config.layers[0].attention.window is None


CODER = PUBLISHED | {
    "max_position_embeddings": 262144, "max_window_layers": 28, "output_router_logits": False,
    "qkv_bias": False, "rope_theta": 10000000, "router_aux_loss_coef": 0.0,
    "shared_expert_intermediate_size": 0, "use_qk_norm": True,
}  # fmt: skip


def test_a_published_config_of_coder():
    """Qwen3-Coder-30B-A3B's, which says what others leave unsaid."""
    config, plain = FAMILY.hf.read(HFConfig(CODER)), FAMILY.hf.read(HFConfig(PUBLISHED))
    layer = config.layers[47]
    assert config.context_length == 262144 and layer.attention.rope.theta == 1e7
    assert layer.feed_forward == plain.layers[0].feed_forward and layer.attention.qk_norm == "head"
    for change in ({"qkv_bias": True}, {"use_qk_norm": False}, {"shared_expert_intermediate_size": 512}):
        with pytest.raises(ValueError, match=f"field '{min(change)}' is .*, but only .* is supported"):
            FAMILY.hf.read(HFConfig(CODER | change))


@pytest.mark.parametrize("layers", [["a", 99], ["0"], [True], [48], [-1], [1.0], [[]], 3, {"0": 1}])
def test_layers_without_experts_that_are_none(layers):
    with pytest.raises(ValueError, match="field 'mlp_only_layers' is .* not a list of layers from 0 to 47"):
        FAMILY.hf.read(HFConfig(PUBLISHED | {"mlp_only_layers": layers}))
    kept = FAMILY.hf.read(HFConfig(PUBLISHED | {"mlp_only_layers": [0, 47]})).layers
    assert [i for i, layer in enumerate(kept) if layer.feed_forward.experts is None] == [0, 47]


def test_fields_of_a_gguf_file_that_change_nothing():
    """As in Qwen3-Coder-30B-A3B's."""
    fields = {
        "general.architecture": "qwen3moe", "qwen3moe.block_count": 2, "qwen3moe.embedding_length": 64,
        "qwen3moe.feed_forward_length": 96, "qwen3moe.attention.head_count": 4,
        "qwen3moe.attention.head_count_kv": 2, "qwen3moe.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen3moe.context_length": 256, "qwen3moe.rope.freq_base": 1e7, "qwen3moe.expert_count": 8,
        "qwen3moe.expert_used_count": 2, "qwen3moe.expert_feed_forward_length": 32,
    }  # fmt: skip
    shapes = {"token_embd.weight": (320, 64)}
    plain = FAMILY.gguf.read(GGUFConfig(fields, shapes, None))
    for name, neutral, other in (
        ("expert_shared_feed_forward_length", 0, 32), ("expert_shared_count", 0, 1),
        ("expert_weights_scale", 1.0, 2.5),
    ):  # fmt: skip
        read = fields | {f"qwen3moe.{name}": neutral}
        assert FAMILY.gguf.read(GGUFConfig(read, shapes, None)) == plain
        with pytest.raises(ValueError, match=f"'qwen3moe.{name}' is {other}, but only"):
            FAMILY.gguf.read(GGUFConfig(read | {f"qwen3moe.{name}": other}, shapes, None))
