"""Ministral 3 on tiny random weights, held against transformers, beyond the context where queries grow."""

import json
import math
from dataclasses import replace

import family
import gguf
import pytest
import transformers
from family import with_attention
from family_tests import LENGTH, FamilyTests

from exporter.artifact.reader import read_artifact
from exporter.families.ministral3 import FAMILY
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.registry import hf_family
from exporter.lowbit.state import StateLayout
from exporter.model.config import ModelConfig, QueryGrowth, Rope
from exporter.model.rotation import Rotation

ORIGINAL = LENGTH // 3  # so that positions of three factors are seen
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": ORIGINAL,
    "beta_fast": 8.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    rope = config.rope_parameters
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
    writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])


def without_growth(config: ModelConfig) -> ModelConfig:
    return with_attention(config, rope=replace(config.layers[0].attention.rope, query_growth=None))


class TestMinistral3(FamilyTests):
    case = family.Case(
        transformers.Ministral3ForCausalLM,
        gguf.MODEL_ARCH.MISTRAL3,
        {"num_hidden_layers": 2, "rope_parameters": YARN},
        gguf_fields,
        permuted=True,
    )  # fmt: skip
    without = {
        "the scaling": lambda config: with_attention(
            config, rope=Rope(1e4, 32, query_growth=QueryGrowth(0.1, ORIGINAL))
        ),
        "the growth of queries": without_growth,
    }

    def test_runners_that_would_leave_the_growth_out_refuse_it(self, artifacts):
        for path in artifacts:
            assert read_artifact(path).metadata["schema_version"] == "7"


REAL = {
    "architectures": ["Ministral3ForCausalLM"], "attention_dropout": 0.0, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 9216,
    "max_position_embeddings": 262144, "model_type": "ministral3", "num_attention_heads": 32,
    "num_hidden_layers": 26, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
                        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
                        "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn"},
    "sliding_window": None, "tie_word_embeddings": True, "use_cache": True, "vocab_size": 131072,
}  # fmt: skip


def test_a_published_config():
    """Ministral 3 3B's text part."""
    config = FAMILY.hf.read(HFConfig(REAL))
    rope = config.layers[0].attention.rope
    assert (config.context_length, rope.scaling.factor, rope.scaling.attention_factor) == (262144, 16.0, 1.0)
    assert rope.query_growth == QueryGrowth(0.1, 16384)
    with pytest.raises(ValueError, match="queries grow.*'yarn'"):
        FAMILY.hf.read(HFConfig(REAL | {"rope_parameters": {"llama_4_scaling_beta": 0.1}}))


SMALL_3_2 = {
    "general.architecture": "mistral3", "mistral3.block_count": 40, "mistral3.embedding_length": 5120,
    "mistral3.feed_forward_length": 32768, "mistral3.attention.head_count": 32,
    "mistral3.attention.head_count_kv": 8, "mistral3.attention.key_length": 128,
    "mistral3.attention.value_length": 128, "mistral3.attention.layer_norm_rms_epsilon": 1e-5,
    "mistral3.context_length": 131072, "mistral3.rope.freq_base": 1e9, "mistral3.vocab_size": 131072,
    "mistral3.rope.dimension_count": 128,
}  # fmt: skip


@pytest.mark.parametrize("beta", [0, 0.0, None])
def test_a_beta_by_which_nothing_grows(beta):
    """In both sources, and without YaRN, too."""
    for parameters in (REAL["rope_parameters"], {"rope_type": "default", "rope_theta": 1e6}):
        fields = REAL | {"rope_parameters": parameters | {"llama_4_scaling_beta": beta}}
        assert FAMILY.hf.read(HFConfig(fields)).layers[0].attention.rope.query_growth is None
    fields = SMALL_3_2 if beta is None else SMALL_3_2 | {"mistral3.attention.temperature_scale": beta}
    config = FAMILY.gguf.read(GGUFConfig(fields, {"token_embd.weight": (131072, 5120)}, None))
    assert config.layers[0].attention.rope.query_growth is None


@pytest.mark.parametrize("beta", [-0.1, "0.1", True, False])
def test_a_beta_that_is_no_positive_number(beta):
    parameters = REAL["rope_parameters"] | {"llama_4_scaling_beta": beta}
    with pytest.raises(ValueError, match="beta.*not a positive number"):
        FAMILY.hf.read(HFConfig(REAL | {"rope_parameters": parameters}))


def test_factors_of_the_whole_context():
    grows = StateLayout.of(FAMILY.hf.read(HFConfig(REAL))).rotations[0]
    assert len(grows.query_factors) == 16 and grows.query_span == 16384
    assert grows.query_factors[0] == 1 and grows.query_factors[15] == pytest.approx(1 + 0.1 * math.log(16))
    assert Rotation.from_json(json.loads(json.dumps(grows.to_json()))) == grows


def test_gguf_files_whose_queries_do_not_grow():
    """Mistral Small 3.2's."""
    config = FAMILY.gguf.read(GGUFConfig(SMALL_3_2, {"token_embd.weight": (131072, 5120)}, None))
    assert config.context_length == 131072
    assert config.layers[0].attention.rope == Rope(1e9, 128)


def test_images_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="Mistral3ForConditionalGeneration .* images.* GGUF file"):
        hf_family({"architectures": ["Mistral3ForConditionalGeneration"]})
