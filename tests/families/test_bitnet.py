"""BitNet on tiny random weights, held against transformers; ternary matrices are kept exactly."""

from dataclasses import replace

import family
import gguf
import pytest
import tiny
import torch
import transformers
from family import with_attention, with_feed_forward, with_layers, with_older_rope
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, FamilyTests, far, run
from safetensors.torch import load_file, save_file
from transformers.integrations import bitnet as of_transformers

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.bitnet import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.formats.prequantized.methods import find_method
from exporter.formats.prequantized.ternary import packed_ternary
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.recipe.recipe import parse_recipe

RELU2 = {"hidden_act": "relu2"}
PUBLISHED = {
    "architectures": ["BitNetForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_bitnet.BitNetConfig"}, "bos_token_id": 128000,
    "eos_token_id": 128001, "hidden_act": "relu2", "hidden_size": 2560, "initializer_range": 0.02,
    "intermediate_size": 6912, "max_position_embeddings": 4096, "model_type": "bitnet",
    "num_attention_heads": 20, "num_hidden_layers": 30, "num_key_value_heads": 5,
    "quantization_config": {"linear_class": "autobitlinear", "quant_method": "bitnet",
                            "quantization_mode": "offline"},
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": 128256,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(1.0)


def gguf_tensors(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Under the names of the models that llama.cpp converts."""
    for ours, theirs in (("attn_sub_norm", "inner_attn_ln"), ("ffn_sub_norm", "ffn_layernorm")):
        name = name.replace(ours, theirs)
    return {name: tensor}


class TestBitNet(FamilyTests):
    case = family.Case(
        transformers.BitNetForCausalLM,
        gguf.MODEL_ARCH.BITNET,
        # SiLU, which GGUF files of this architecture have.
        {"num_hidden_layers": 2, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5,
         "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
        gguf_fields,
        gguf_tensors=gguf_tensors,
        older=with_older_rope,
    )  # fmt: skip
    without = {
        "norms inside": lambda config: with_layers(config, sub_norms=False),
        "the activation": lambda config: with_feed_forward(config, activation="relu2"),
        "rotation": lambda config: with_attention(config, rope=None),
        "epsilon": lambda config: replace(config, norm_eps=1e-2),
    }


@pytest.fixture(autouse=True)
def eager():
    """Transformers' rounding is compiled otherwise."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def squared(tmp_path):
    """A folder whose model has squared ReLU, as published ones, and the model."""
    return tmp_path, family.make_hf(tmp_path, TestBitNet.case, **RELU2)


def test_squared_relu(squared):
    folder, model = squared
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    decoder = load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)
    assert far(run(decoder, LENGTH), expected) < MAX_ERROR


def test_a_published_config():
    """BitNet-b1.58-2B-4T's."""
    config = FAMILY.hf.read(HFConfig({k: v for k, v in PUBLISHED.items() if k != "quantization_config"}))
    layer = config.layers[29]
    assert (layer.attention.n_heads, layer.attention.n_kv_heads, layer.attention.head_dim) == (20, 5, 128)
    assert layer.sub_norms and layer.feed_forward.activation == "relu2" and config.tied_embeddings
    for change, named in (
        ({"use_rms_norm": True}, "use_rms_norm"), ({"quantization_mode": "later"}, "'later'"),
        ({"modules_to_not_convert": ["q_proj"]}, "q_proj"), ({"bits": 3}, "'bits'"),
    ):  # fmt: skip
        quantization = PUBLISHED["quantization_config"] | change
        with pytest.raises(ValueError, match=named):
            find_method(quantization)
    find_method(PUBLISHED["quantization_config"])


def test_null_is_the_default():
    """A scale by which weights are divided, packed, as without the fields."""
    absent = {"quant_method": "bitnet"}
    for more in ({"linear_class": None}, {"quantization_mode": None}, {"use_rms_norm": None}):
        for fields in (absent, absent | more):
            found = find_method(fields)
            assert (found.func, found.keywords) == (packed_ternary, {"inverse": True})


def write_ternary(folder, kind: str, mode: str) -> dict[str, torch.Tensor]:
    """Make the layers' matrices ternary, as transformers stores them, and return them as floats."""
    config, path = tiny.read_json(folder / "config.json"), folder / "model.safetensors"
    quantization = {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": mode}
    tiny.write_json(folder / "config.json", config | {"quantization_config": quantization})
    tensors, floats = load_file(path), {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name].bfloat16()
        if mode == "online":
            tensors[name], floats[name] = weight, of_transformers.WeightQuant.apply(weight).float()
            continue
        scale = weight.float().abs().mean().bfloat16().reshape(1)
        levels = (weight.float() / scale.float()).round().clamp(-1, 1)
        floats[name] = levels * scale.float()
        tensors[name] = of_transformers.pack_weights(levels.clone())
        inverse = kind == "bitlinear"
        if inverse:
            scale = (1 / scale.float()).bfloat16()
            floats[name] = levels * (1 / scale.float())
        tensors[f"{name}_scale"] = scale
    save_file(tensors, path)
    return floats


@pytest.mark.parametrize(("kind", "mode"), [
    ("autobitlinear", "offline"), ("bitlinear", "offline"), ("autobitlinear", "online"),
])  # fmt: skip
def test_ternary_matrices(kind, mode, squared):
    """They are read as transformers has them, and 2 bits hold them exactly, at any group size."""
    folder, _ = squared
    floats = write_ternary(folder, kind, mode)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.dequantized == ("14 ternary when rounded" if mode == "online" else "14 ternary")
    state = checkpoint.state_dict(torch.float32)
    for name, expected in floats.items():
        canonical = next(c for c in state if checkpoint.weights.stored_name(c) == name)
        assert torch.equal(state[canonical], expected), name
        assert len(state[canonical].unique()) == 3
    wo = [state[f"layers.{i}.attention.wo.weight"] for i in range(2)]
    exact = kind == "autobitlinear"  # a scale's inverse takes more bits than a scale has
    for recipe in ("q2", "ternary", '{"linear:a8wx": {"bitwidth": 2, "groupsize": 256}}'):
        packed = pack(checkpoint, recipe)
        for i, weight in enumerate(wo):
            found = torch.ops.lowbit.unpack(packed.layers[i].wo.weight)
            assert torch.equal(found, weight) if exact else torch.allclose(found, weight, rtol=2**-11), recipe


def test_ternary_matrices_of_another_family(tmp_path):
    tiny.make_hf(tmp_path, "llama3")
    floats = write_ternary(tmp_path, "autobitlinear", "offline")
    state = open_checkpoint(str(tmp_path)).state_dict(torch.float32)
    expected = floats["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(state["layers.1.feed_forward.w2.weight"], expected)
    assert len(state["tok_embeddings.weight"].unique()) > 1000


def pack(checkpoint, recipe: str) -> LowbitTransformer:
    options = PackOptions(parse_recipe(recipe), torch.float32)
    model = load_model(checkpoint, torch.float32, CONTEXT)
    return LowbitTransformer(model, options, "float16", lambda line: None)


def test_activations_are_rounded_as_transformers_rounds_them(squared):
    """To 127 steps of a token's largest, which is what a group that holds a row does."""
    folder, _ = squared
    write_ternary(folder, "bitlinear", "offline")
    stored, name = load_file(folder / "model.safetensors"), "model.layers.0.self_attn.o_proj"
    module = of_transformers.BitLinear(64, 64, bias=False, dtype=torch.float32)
    module.weight, module.weight_scale = stored[f"{name}.weight"], stored[f"{name}.weight_scale"].float()
    packed = pack(open_checkpoint(str(folder)), '{"linear:a8wx": {"bitwidth": 2, "groupsize": 256}}')
    x = torch.randn(LENGTH, 64, generator=torch.Generator().manual_seed(1))
    found, expected = packed.layers[0].wo(x), module(x)
    assert far(found.numpy(), expected.numpy()) < 2**-10  # the scale's own rounding
    assert far(found.numpy(), (x @ packed_floats(stored, name).T).numpy()) > 2**-9


def packed_floats(stored: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    levels = of_transformers.unpack_weights(stored[f"{name}.weight"], torch.float32)
    return levels / stored[f"{name}.weight_scale"].float()


@pytest.mark.filterwarnings("error")
def test_a_scale_that_nothing_is_divided_by(squared):
    folder, _ = squared
    write_ternary(folder, "bitlinear", "offline")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_scale"] *= 0
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="tensor model.layers.1.mlp.up_proj.weight stands for NaN or inf"):
        open_checkpoint(str(folder)).state_dict(torch.float32)


def test_packed_matrices_without_a_scale(squared):
    folder, _ = squared
    write_ternary(folder, "autobitlinear", "offline")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="layers.1.mlp.up_proj.weight is not packed with a scale"):
        open_checkpoint(str(folder))
