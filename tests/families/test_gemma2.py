"""Gemma 2 on tiny random weights, held against transformers: windows passed, both soft caps felt."""

from dataclasses import replace

import family
import gguf
import numpy as np
import pytest
import torch
import transformers
from family import with_attention, with_older_rope
from family_tests import LENGTH, TOKENS, FamilyTests, ThoroughFamilyTests

from exporter.families.gemma2 import FAMILY
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.runners.native import load_artifact

WINDOW = 8  # of prompts of 60 tokens
SCORE_CAP, LOGIT_CAP = 0.5, 1.5  # of scores and logits that are larger


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


class TestGemma2(FamilyTests):
    case = family.Case(
        transformers.Gemma2ForCausalLM,
        gguf.MODEL_ARCH.GEMMA2,
        {"num_hidden_layers": 3, "sliding_window": WINDOW, "query_pre_attn_scalar": 32,
         "attn_logit_softcapping": SCORE_CAP, "final_logit_softcapping": LOGIT_CAP,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        gguf_fields,
        norm_offset=1.0,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "norms of what is added": lambda config: replace(config, layers=tuple(
            replace(layer, norm_out=False) for layer in config.layers
        )),
        "windows": lambda config: with_attention(config, window=None),
        "windows in every other layer alone": lambda config: with_attention(config, window=WINDOW),
        "the scores' soft cap": lambda config: with_attention(config, softcap=None),
        "the logits' soft cap": lambda config: replace(config, logit_softcap=None),
        "the embedding's scale": lambda config: replace(config, embedding_scale=1.0),
    }  # fmt: skip

    test_a_fit = ThoroughFamilyTests.test_a_fit  # sensitivities feel the soft cap

    def test_scores_of_tokens_are_behind_the_soft_cap(self, artifacts, expected):
        """Where no matrix of logits is made."""
        log_p = torch.log_softmax(torch.from_numpy(expected).double(), -1)
        wanted = log_p[torch.arange(LENGTH - 1), torch.tensor(TOKENS[1:])].numpy()
        for artifact in artifacts:
            found = load_artifact(artifact).score(TOKENS, 1)
            assert np.abs(found - wanted).max() < 1e-4


def test_the_largest_models_scores_are_scaled_by_its_width():
    """Gemma 2 27B: 4608 / 32 in place of the head's width of 128, which its GGUF files do not say."""
    fields = {
        "general.architecture": "gemma2", "gemma2.block_count": 46, "gemma2.embedding_length": 4608,
        "gemma2.feed_forward_length": 36864, "gemma2.attention.head_count": 32,
        "gemma2.attention.head_count_kv": 16, "gemma2.attention.key_length": 128,
        "gemma2.attention.value_length": 128, "gemma2.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma2.attention.sliding_window": 4096, "gemma2.context_length": 8192,
        "gemma2.attn_logit_softcapping": 50.0, "gemma2.final_logit_softcapping": 30.0,
    }  # fmt: skip
    config = FAMILY.gguf.read(GGUFConfig(fields, {"token_embd.weight": (256000, 4608)}, None))
    assert {layer.attention.scale for layer in config.layers} == {144**-0.5}
    assert [layer.attention.window for layer in config.layers[:3]] == [4096, None, 4096]
    assert config.logit_softcap == 30.0


def test_a_published_config():
    """Gemma 2 2B's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid",
        "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
        "initializer_range": 0.02, "intermediate_size": 9216, "max_position_embeddings": 8192,
        "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
        "sliding_window": 4096, "torch_dtype": "float32", "transformers_version": "4.42.4", "use_cache": True,
        "vocab_size": 256000,
    }))  # fmt: skip
    assert [layer.attention.window for layer in config.layers] == [4096, None] * 13
    assert (config.layers[0].attention.softcap, config.logit_softcap) == (50.0, 30.0)
    assert config.tied_embeddings and config.layers[0].norm_out
    with pytest.raises(ValueError, match="soft cap"):
        replace(config, logit_softcap=0.0)
