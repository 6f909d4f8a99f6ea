"""OLMoE on tiny random weights, held against transformers."""

import family
import gguf
import transformers
from family import with_attention, with_feed_forward, with_older_rope, write_heads_and_base
from family_tests import FamilyTests

from exporter.families.olmoe import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.model.config import Experts


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


class TestOlmoe(FamilyTests):
    case = family.Case(
        transformers.OlmoeForCausalLM,
        gguf.MODEL_ARCH.OLMOE,
        {"num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 2, "head_dim": 16,
         "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        gguf_fields,
        gguf_tensors=family.experts_apart,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "an expert": lambda config: with_feed_forward(config, experts=Experts(6, 1, False)),
        "factors of all": lambda config: with_feed_forward(config, experts=Experts(6, 2, True)),
        "norms of queries and keys": lambda config: with_attention(config, qk_norm=None),
    }


def test_a_published_config():
    """OLMoE-1B-7B-0924's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "clip_qkv": None, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 1024, "max_position_embeddings": 4096,
        "model_type": "olmoe", "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 64,
        "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
        "output_router_logits": False, "pad_token_id": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": True,
        "vocab_size": 50304,
    }))  # fmt: skip
    layer = config.layers[15]
    assert layer.feed_forward.experts == Experts(64, 8, renormalize=False)
    assert layer.attention.qk_norm == "width" and layer.attention.head_dim == 128
