"""What is said of a model of an unknown architecture."""

import pytest

from exporter.families.sources.nearest_family import Nearest, nearest_gguf, nearest_hf
from exporter.families.sources.registry import all_families, gguf_family, hf_family

QWEN = {
    "architectures": ["Qwen9ForCausalLM"], "model_type": "qwen9", "hidden_act": "silu", "head_dim": 128,
    "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "num_attention_heads": 16, "num_hidden_layers": 2, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000, "tie_word_embeddings": True, "vocab_size": 151936,
}  # fmt: skip
LAYER = (
    "input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj self_attn.q_norm "
    "self_attn.k_norm post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj"
).split()
TENSORS = ["model.embed_tokens.weight", "model.norm.weight"] + [
    f"model.layers.{i}.{name}.weight" for i in range(2) for name in LAYER
]


def test_only_the_name_is_another():
    assert nearest_hf(all_families(), QWEN, TENSORS) == Nearest("qwen3", ())


def test_fields_that_differ_are_told():
    found = nearest_hf(all_families(), {**QWEN, "hidden_act": "relu", "router_width": 3}, TENSORS)
    assert found == Nearest("qwen3", ("field 'hidden_act' ('relu', not 'silu')", "field 'router_width' (3)"))


def test_tensors_that_differ_are_told_once_for_all_layers_and_experts():
    experts = [f"model.layers.{i}.mlp.experts.{n}.w1.weight" for i in range(2) for n in range(4)]
    found = nearest_hf(all_families(), QWEN, TENSORS + experts)
    assert found == Nearest("qwen3", ("tensor model.layers.{i}.mlp.experts.{n}.w1",))


@pytest.mark.parametrize("ends", [("qweight", "qzeros", "scales", "g_idx"), ("weight", "weight_scale_inv")])
def test_quantized_matrices_have_the_names_of_their_modules(ends):
    tensors = [name for name in TENSORS if "proj" not in name]
    tensors += [f"model.layers.0.{name}.{end}" for name in LAYER if "proj" in name for end in ends]
    fields = QWEN | {"quantization_config": {"quant_method": "gptq"}}
    assert nearest_hf(all_families(), fields, tensors) == Nearest("qwen3", ())


def test_a_missing_field_is_told():
    fields = {name: value for name, value in QWEN.items() if name != "vocab_size"}
    assert "no field 'vocab_size'" in nearest_hf(all_families(), fields, TENSORS).differences


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, True, 1e400, {"rope_type": []}])
@pytest.mark.parametrize("field", [*QWEN, "rope_scaling", "layer_types", "sliding_window"])
def test_fields_of_wrong_types_end_in_words(field: str, value: object):
    with pytest.raises(ValueError, match="is not supported: .*the nearest family is"):
        hf_family({**QWEN, "architectures": ["Unknown"], field: value} | (
            {} if field != "architectures" else {"architectures": value}
        ))  # fmt: skip


def test_many_differences_are_counted():
    fields = {**QWEN, **{f"novelty_{i}": i for i in range(20)}}
    assert str(nearest_hf(all_families(), fields, TENSORS)).count("novelty_") == 8
    assert " and 12 more; docs/families.md" in str(nearest_hf(all_families(), fields, TENSORS))


def test_gguf():
    fields = {
        "general.architecture": "qwen9", "qwen9.block_count": 2, "qwen9.context_length": 1024,
        "qwen9.embedding_length": 64, "qwen9.feed_forward_length": 128, "qwen9.attention.head_count": 4,
        "qwen9.attention.head_count_kv": 2, "qwen9.attention.key_length": 16,
        "qwen9.attention.value_length": 16, "qwen9.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen9.rope.freq_base": 1e6, "qwen9.ssm.state_size": 16,
    }  # fmt: skip
    blocks = (
        "attn_norm attn_q attn_k attn_v attn_output attn_q_norm attn_k_norm ffn_norm ffn_gate ffn_up ffn_down"
    ).split()
    shapes = {f"blk.{i}.{name}.weight": (64, 64) for i in range(2) for name in blocks}
    shapes |= {"token_embd.weight": (100, 64), "output_norm.weight": (64,)}
    found = nearest_gguf(all_families(), fields, shapes)
    assert found == Nearest("qwen3", ("field 'ssm.state_size' (16)",))
    with pytest.raises(ValueError, match="'qwen9' is not supported: .*nearest family is qwen3"):
        gguf_family(fields, shapes)
