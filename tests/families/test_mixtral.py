"""Mixtral on tiny random weights, held against transformers."""

import family
import gguf
import transformers
from family import with_feed_forward, with_older_rope, write_heads_and_base
from family_tests import FamilyTests

from exporter.families.mixtral import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.model.config import Experts


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


class TestMixtral(FamilyTests):
    case = family.Case(
        transformers.MixtralForCausalLM,
        gguf.MODEL_ARCH.LLAMA,
        {"num_hidden_layers": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        gguf_fields,
        permuted=True,
        gguf_tensors=family.experts_apart,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"one expert of three": {"num_local_experts": 3, "num_experts_per_tok": 1}}
    without = {
        "the second expert": lambda config: with_feed_forward(config, experts=Experts(5, 1, True)),
        "factors of the chosen alone": lambda config: with_feed_forward(
            config, experts=Experts(5, 2, False)
        ),
    }


def test_a_published_config():
    """Mixtral-8x7B-v0.1's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0", "use_cache": True, "vocab_size": 32000,
    }))  # fmt: skip
    layer = config.layers[31]
    assert layer.feed_forward.experts == Experts(8, 2, renormalize=True)
    assert layer.attention.window is None and layer.feed_forward.hidden_dim == 14336
