"""Configs of every format and spelling, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers

from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.llama3_rope import llama3_divisors
from exporter.families.sources.meta import MetaConfig
from exporter.families.sources.registry import gguf_family, hf_family, meta_family
from exporter.model.config import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    Rope,
    RopeScaling,
    Xielu,
)
from exporter.model.matrices import parameter_shapes
from exporter.model.rotary import rotation

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "torch_dtype": "bfloat16",
}
LLAMA_LAYER = LayerSpec(
    AttentionSpec(32, 8, 64, Rope(500000.0, 64, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192))),
    FeedForwardSpec(8192),
)
LLAMA_CONFIG = ModelConfig(
    family="llama",
    dim=2048,
    layers=(LLAMA_LAYER,) * 16,
    vocab_size=128256,
    norm_eps=1e-5,
    context_length=131072,
    tied_embeddings=True,
)
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


def from_hf(fields: dict) -> ModelConfig:
    return hf_family(fields).hf.read(HFConfig(fields))


def rope_of(config: ModelConfig) -> Rope:
    return config.layers[0].attention.rope


def test_hf_spellings_agree():
    newer = {k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_scaling")}
    newer["rope_parameters"] = LLAMA["rope_scaling"] | {"rope_theta": 500000.0}
    assert from_hf(LLAMA) == from_hf(newer) == LLAMA_CONFIG


def test_hf_rope_type_under_its_oldest_name():
    config = from_hf(LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    assert rope_of(config).scaling == RopeScaling("linear", 4.0)


def test_hf_defaults_are_those_of_transformers():
    small = {k: v for k, v in MISTRAL.items() if k != "num_key_value_heads"}
    mistral = from_hf(small)
    attention = mistral.layers[0].attention
    assert (attention.n_kv_heads, attention.head_dim) == (8, 128)
    assert (attention.window, mistral.context_length) == (4096, 131072)
    assert from_hf(small | {"sliding_window": None}).layers[0].attention.window is None
    llama = from_hf(small | {"architectures": ["LlamaForCausalLM"]})
    attention = llama.layers[0].attention
    assert (attention.n_kv_heads, attention.window, llama.context_length) == (32, None, 2048)
    assert (attention.rope.theta, llama.norm_eps, llama.tied_embeddings) == (10000.0, 1e-6, False)


def test_hf_rope_scalings():
    """Each as transformers computes it, on a config in either spelling."""
    longrope = {"short_factor": [1 + i / 32 for i in range(32)], "long_factor": [2.0 + i for i in range(32)]}
    for scaling in (
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        {"rope_type": "yarn", "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16.0,
         "beta_slow": 2.0, "truncate": False, "original_max_position_embeddings": 8192},
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25},
        {"rope_type": "longrope", "original_max_position_embeddings": 4096, **longrope},
        {"rope_type": "longrope", "factor": 2.0, "attention_factor": 1.5, **longrope},
    ):  # fmt: skip
        rope = rope_of(from_hf(LLAMA | {"rope_scaling": scaling}))
        parameters = scaling | {"rope_theta": 500000.0}
        made = transformers.LlamaConfig(
            **{k: v for k, v in LLAMA.items() if not k.startswith("rope")}, rope_parameters=parameters
        )
        older = {k: v for k, v in LLAMA.items() if not k.startswith("rope")}
        assert rope == rope_of(from_hf(older | {"rope_parameters": parameters}))
        numbers = rotation(rope, 131072)
        for context in (1, 4096, 4097, 131072):
            compute = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[scaling["rope_type"]]
            expected, factor = compute(made, seq_len=context)
            found = torch.tensor(numbers.of_context(context))
            assert torch.allclose(found, expected, rtol=1e-6, atol=0), scaling
            assert math.isclose(numbers.factor, factor), scaling


def test_yarn_in_a_config_lengthens_its_context():
    """As Qwen's model cards say to add it."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = from_hf(LLAMA | {"max_position_embeddings": 32768, "rope_scaling": scaling})
    assert config.context_length == 131072
    assert from_hf(LLAMA | {"rope_scaling": scaling | {"factor": 2.0}}).context_length == 131072


def test_gguf_rope_scalings_are_those_of_hf():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 16.0}
    found = read_gguf_fields(GGUF_1B | {
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32768, "llama.rope.scaling.yarn_beta_fast": 16.0,
    })  # fmt: skip
    assert rope_of(found) == rope_of(from_hf(LLAMA | {"rope_scaling": yarn}))
    mscale = {"mscale": 1.0, "mscale_all_dim": 0.5}
    found = read_gguf_fields(GGUF_1B | {
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32768, "llama.rope.scaling.yarn_beta_fast": 16.0,
        "llama.rope.scaling.yarn_log_multiplier": 0.5,
    })  # fmt: skip
    assert rope_of(found) == rope_of(from_hf(LLAMA | {"rope_scaling": yarn | mscale}))
    factors = [1.0] * 32, [2.0] * 32
    longrope = {"rope_type": "longrope", "short_factor": factors[0], "long_factor": factors[1],
                "original_max_position_embeddings": 4096}  # fmt: skip
    found = read_gguf_fields(GGUF_1B | {"llama.rope.scaling.original_context_length": 4096}, None, factors)
    assert rope_of(found) == rope_of(from_hf(LLAMA | {"rope_scaling": longrope}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"architectures": None}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"qk_layernorm": True}, "qk_layernorm"),
        ({"logit_scale": 0.5}, "logit_scale"),
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "2"}}, "factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": "1"}}, "mscale"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "long_factor": [1.0]}}, "long_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "short_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 31}},
         "31 long_factors"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1.0}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "mscale": 1}}, "mscale"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": "linear"}, "linear"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "differ"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "2048"}, "2048"),
        ({"num_hidden_layers": 2**31}, "n_layers"),
        ({"num_key_value_heads": 5}, "5"),
        ({"head_dim": 63}, "63"),
        ({"head_dim": None, "num_attention_heads": 24}, "24"),
        ({"rms_norm_eps": float("nan")}, "norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
)
def test_hf_refusals_name_the_field(change: dict, named: str):
    with pytest.raises(ValueError, match=named) as error:
        from_hf(LLAMA | change)
    assert "\n" not in str(error.value)


def test_hf_mistral_has_no_biases():
    from_hf(MISTRAL | {"attention_bias": False})
    with pytest.raises(ValueError, match="attention_bias"):
        from_hf(MISTRAL | {"attention_bias": True})


META_1B = {
    "dim": 2048,
    "ffn_dim_multiplier": 1.5,
    "multiple_of": 256,
    "n_heads": 32,
    "n_kv_heads": 8,
    "n_layers": 16,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
    "vocab_size": 128256,
}


def meta(params: dict, vocab_size: int = 128256, tied: bool = True) -> ModelConfig:
    return meta_family().meta.read(MetaConfig(params, vocab_size, 8192, tied))


def test_meta_equals_hf():
    assert meta(META_1B) == LLAMA_CONFIG


def test_meta_generations():
    scaled_8b = meta(META_1B | {"dim": 4096})
    assert rope_of(scaled_8b).scaling == RopeScaling("llama3", 8.0)
    llama3 = meta({k: v for k, v in META_1B.items() if k != "use_scaled_rope"})
    assert (rope_of(llama3).scaling, llama3.context_length) == (None, 8192)
    llama2 = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-5}
    config = meta(llama2 | {"vocab_size": -1}, vocab_size=32000, tied=False)
    assert (config.vocab_size, config.layers[0].attention.n_kv_heads) == (32000, 32)
    assert config.context_length == 4096
    assert rope_of(config) == Rope(10000.0, 128)
    assert meta(llama2 | {"rope_theta": 1e6}).context_length == 16384


@pytest.mark.parametrize(
    "change", [{"moe": {"num_experts": 8}}, {"dim": None}, {"n_heads": 0}, {"n_layers": "16"}]
)
def test_meta_refusals_name_the_field(change: dict):
    with pytest.raises(ValueError, match=next(iter(change))):
        meta(META_1B | change)


GGUF_1B = {
    "general.architecture": "llama",
    "llama.block_count": 16,
    "llama.context_length": 131072,
    "llama.embedding_length": 2048,
    "llama.feed_forward_length": 8192,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.attention.key_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500000.0,
    "llama.vocab_size": 128256,
}


def read_gguf_fields(fields: dict, rope_factors: list[float] | None = None, long=None) -> ModelConfig:
    shapes = {"token_embd.weight": (128256, 2048)}
    return gguf_family(fields, shapes).gguf.read(GGUFConfig(fields, shapes, rope_factors, long))


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_gguf_rope_factors_become_llama3_scaling(factor: float):
    rope = Rope(500000.0, 64, RopeScaling("llama3", factor))
    factors = llama3_divisors(rope)
    config = read_gguf_fields(GGUF_1B, factors)
    layer = replace(LLAMA_LAYER, attention=replace(LLAMA_LAYER.attention, rope=rope_of(config)))
    assert config == replace(LLAMA_CONFIG, layers=(layer,) * 16)
    fitted = llama3_divisors(rope_of(config))
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(factors, fitted, strict=True))
    assert rope_of(config) == rope


def test_gguf_other_rope_factors_are_refused():
    for factors in ([1.0] * 16 + [3.0] * 16, [1.0, 8.0], [float("nan")] * 32):
        with pytest.raises(ValueError, match="rope"):
            read_gguf_fields(GGUF_1B, factors)
    assert rope_of(read_gguf_fields(GGUF_1B, [1.0] * 32)).scaling is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"general.architecture": "mamba"}, "mamba"),
        ({"general.type": "adapter"}, "adapter"),
        ({"llama.expert_count": 8}, "expert_used_count"),
        ({"llama.expert_shared_count": 1}, "expert_shared_count"),
        ({"llama.rope.scaling.type": "yarn"}, "factor"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"llama.rope.scaling.type": "linear"}, "factor"),
        ({"llama.rope.dimension_count": 32}, "dimension_count"),
        ({"llama.attention.value_length": 32}, "value_length"),
        ({"llama.attention.head_count": [32, 16]}, "head_count"),
        ({"llama.logit_scale": 0.5}, "logit_scale"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon"),
    ],
)
def test_gguf_refusals_name_the_field(change: dict, named: str):
    with pytest.raises(ValueError, match=named):
        read_gguf_fields(GGUF_1B | change)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: replace(LLAMA_LAYER, norm="group"), "'group'"),
        (lambda: replace(LLAMA_LAYER, norm_bias=True), "'rms' with a bias"),
        (lambda: replace(LLAMA_LAYER, parallel=1), "parallel is 1"),
        (lambda: FeedForwardSpec(96, "xielu", gated=False), "has parameters"),
        (lambda: FeedForwardSpec(96, "xielu", xielu=Xielu(1.0, 1.0)), "no gate"),
        (lambda: FeedForwardSpec(96, gated=False, limit=2.5), "2.5"),
        (lambda: Xielu(-1.0, 1.0), "alpha_p is -1.0"),
        (lambda: Xielu(1.0, 1.0, eps=0.5), "eps is 0.5"),
    ],
)
def test_layers_that_nothing_computes(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_parameter_shapes():
    layer = replace(LLAMA_LAYER, attention=replace(LLAMA_LAYER.attention, qkv_bias=True))
    config = replace(LLAMA_CONFIG, layers=(layer,), tied_embeddings=False)
    shapes = parameter_shapes(config)
    assert shapes["layers.0.attention.wk.weight"] == (512, 2048)
    assert shapes["layers.0.attention.wq.bias"] == (2048,)
    assert shapes["layers.0.feed_forward.w2.weight"] == (2048, 8192)
    assert shapes["output.weight"] == (128256, 2048)
    assert "layers.0.attention.wo.bias" not in shapes
    assert "output.weight" not in parameter_shapes(LLAMA_CONFIG)


def test_configs_import_no_torch():
    code = (
        "import sys, exporter.model.matrices, exporter.checkpoint.known_models, exporter.checkpoint.hub; "
        "from exporter.families.sources.registry import all_families; all_families(); "
        "sys.exit(bool({'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
