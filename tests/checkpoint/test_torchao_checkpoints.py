"""Checkpoints that torchao quantized: read as torchao's own dequantize has them, or refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from checkpoint_files import assert_refused
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.formats.prequantized.torchao import _in_rows
from exporter.formats.safetensors_file import read_metadata
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.pipeline.model_request import ModelSource
from exporter.pipeline.prepare import describe
from exporter.recipe.recipe import parse_recipe

with warnings.catch_warnings():  # torchao says that it lacks CUDA's libraries
    warnings.simplefilter("ignore")
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    from torchao.prototype.mx_formats.utils import to_blocked
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8Tensor,
        Float8WeightOnlyConfig,
        Int4Tensor,
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        Int8Tensor,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerAxis,
        PerGroup,
        PerRow,
        PerTensor,
    )
    from torchao.quantization.granularity import PerBlock

ASYMMETRIC = MappingType.ASYMMETRIC
CONFIGS = {
    "int8": (Int8WeightOnlyConfig(version=2), "Int8Tensor"),
    "int8 of all": (Int8WeightOnlyConfig(version=2, granularity=PerTensor()), "Int8Tensor"),
    "int8, activations too": (Int8DynamicActivationInt8WeightConfig(version=2), "Int8Tensor"),
    "int4 in groups": (
        Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32)),
        "IntxUnpackedToInt8Tensor",
    ),
    "int3 with zero points": (
        IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=PerGroup(16), mapping_type=ASYMMETRIC),
        "IntxUnpackedToInt8Tensor",
    ),
    "int8 by row": (
        IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0)), "IntxUnpackedToInt8Tensor",
    ),
    "float8": (Float8WeightOnlyConfig(), "Float8Tensor"),
}  # fmt: skip


def assert_read_as(folder: Path, expected: dict[str, Tensor], said: str, capsys) -> None:
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.dequantized == said
    state = checkpoint.state_dict(torch.float32)
    stored = {checkpoint.weights.stored_name(name): tensor for name, tensor in state.items()}
    for name, weight in expected.items():
        assert torch.equal(stored[name], weight), name
    describe(ModelSource(str(folder)))
    assert f"is quantized already ({said}): its weights are read as the floats" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_transformers_saves(name, dtype, whole, tmp_path, capsys):
    """In float32 to the bit; torchao multiplies in the model's 16 bits, and we in 32."""
    config, kind = CONFIGS[name]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        whole, dtype=dtype, quantization_config=transformers.TorchAoConfig(config)
    )
    model.save_pretrained(tmp_path)
    shutil.copy(whole / "tokenizer.json", tmp_path)
    expected = {key: value for key, value in model.state_dict().items() if type(value).__name__ == kind}
    assert len(expected) == 14
    if dtype == torch.float32:
        exact = {key: value.dequantize() for key, value in expected.items()}
        return assert_read_as(tmp_path, exact, f"14 torchao's {kind}", capsys)
    checkpoint = open_checkpoint(str(tmp_path))
    state = checkpoint.state_dict(torch.float32)
    for key, tensor in state.items():
        stored = checkpoint.weights.stored_name(key)
        if stored in expected:  # a scale of bfloat16 times a whole number, rounded once or twice
            torch.testing.assert_close(tensor, expected[stored].dequantize().float(), rtol=2**-7, atol=0)
    return None


def save(folder: Path, make: Callable[[Tensor], Tensor]) -> None:
    """Makes tensors of torchao of the layers' matrices, and writes them as transformers does."""
    state = load_file(folder / "model.safetensors")
    state = {name: make(w) if "proj" in name else w for name, w in state.items()}
    tensors, notes = flatten_tensor_state_dict(state)
    save_file(tensors, folder / "model.safetensors", {"format": "pt", **notes})
    config = tiny.read_json(folder / "config.json")
    tiny.write_json(folder / "config.json", config | {"quantization_config": {"quant_method": "torchao"}})


def read_against(folder: Path, make: Callable[[Tensor], Tensor], capsys, floats=None) -> None:
    floats = floats or (lambda tensor: tensor.dequantize(torch.float32))
    state = load_file(folder / "model.safetensors")
    expected = {name: floats(make(w)) for name, w in state.items() if "proj" in name}
    kind = type(make(next(iter(state.values())))).__name__
    save(folder, make)
    assert_read_as(folder, expected, f"14 torchao's {kind}", capsys)


@pytest.mark.parametrize("swizzled", [False, True])
@pytest.mark.parametrize("whole_scale", [None, 0.25])
def test_nvfp4(folder, capsys, swizzled, whole_scale):
    whole_scale = None if whole_scale is None else torch.tensor(whole_scale)
    read_against(folder, lambda w: NVFP4Tensor.to_nvfp4(
        w, per_tensor_scale=whole_scale, is_swizzled_scales=swizzled), capsys)  # fmt: skip


@pytest.mark.parametrize("swizzled", [False, True])
@pytest.mark.parametrize("element", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float4_e2m1fn_x2])
def test_microscaled_floats(folder, capsys, element, swizzled):
    read_against(folder, lambda w: MXTensor.to_mx(
        w, element, is_swizzled_scales=swizzled), capsys)  # fmt: skip


def test_scales_of_many_rows_are_put_in_order():
    """More than the 128 rows and 4 columns of a block."""
    scales = torch.rand(300, 9)
    assert torch.equal(torch.from_numpy(_in_rows(to_blocked(scales).numpy(), (300, 9))), scales)


def test_blocks_of_8_bit_floats(folder, capsys):
    def make(weight: Tensor) -> Tensor:
        return Float8Tensor.from_hp(weight, granularity=PerBlock([32, 32]))

    read_against(folder, make, capsys)


def by_mslk(weight: Tensor, group: int, scaled: bool = False) -> Tensor:
    """Int4Tensor as mslk's int4_row_quantize_zp and pack_int4 make it: integers from -8 to 7, the low half of
    a byte first, scale (q + 8) + the group's least."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, group)
    least, most = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = (most - least) / 15
    q = (((groups - least) / scale).round().clamp(0, 15) - 8).to(torch.int8).reshape(rows, columns)
    packed = (q[:, ::2] & 15) | (q[:, 1::2] << 4)
    zero = least + 8 * scale
    scales, zeros = (part[:, :, 0].t().contiguous().bfloat16() for part in (scale, zero))
    inputs = (torch.rand(columns, generator=torch.Generator().manual_seed(1)) + 0.5).bfloat16()
    return Int4Tensor(packed, scales, zeros, [1, group], weight.shape, inputs if scaled else None)


def floats_of_int4(tensor: Int4Tensor) -> Tensor:
    rows, columns = tensor.shape
    found = torch.empty(rows, columns)
    for n in range(rows):
        for k in range(columns):
            code = int(tensor.qdata[n, k // 2]) >> (4 * (k % 2)) & 15
            g = k // tensor.block_size[1]
            q = torch.tensor(float(code - 16 if code > 7 else code))
            found[n, k] = q * tensor.scale[g, n].float() + tensor.zero_point[g, n].float()
    return found if tensor.act_pre_scale is None else found * tensor.act_pre_scale.float()


@pytest.mark.parametrize("scaled", [False, True])
def test_int4_two_a_byte(folder, capsys, scaled):
    read_against(folder, lambda w: by_mslk(w, 32, scaled), capsys, floats_of_int4)


def test_integers_are_kept(whole, tmp_path):
    """Of groups of 32 in 16-bit scales by q4, to the bit."""
    config = CONFIGS["int4 in groups"][0]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        whole, dtype=torch.bfloat16, quantization_config=transformers.TorchAoConfig(config)
    )
    model.save_pretrained(tmp_path)
    weight = open_checkpoint(str(tmp_path)).state_dict(torch.float32)["layers.1.feed_forward.w1.weight"]
    for recipe in ("q4", '{"linear:a8wx": {"bitwidth": 4, "groupsize": 16}}'):
        assert torch.equal(dequantize(quantize_linear(weight, parse_recipe(recipe).linear)), weight)


# What is refused


def int8(weight: Tensor) -> Tensor:
    return Int8Tensor.from_hp(weight, PerRow())


def edited(folder: Path, name: str, edit: Callable[[dict], object]) -> None:
    """Changes what the metadata says of a tensor."""
    path = folder / "model.safetensors"
    notes = read_metadata(path)
    said = json.loads(notes[name])
    notes[name] = edit(said) or json.dumps(said)
    save_file(load_file(path), path, notes)


NAME = "model.layers.1.mlp.up_proj.weight"
MODULE = "model.layers.1.mlp.up_proj._weight_"


def float8(weight: Tensor) -> Tensor:
    return Float8Tensor.from_hp(weight, granularity=PerBlock([32, 32]))


def nvfp4(weight: Tensor) -> Tensor:
    return NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=torch.tensor(0.5))


def mx(weight: Tensor) -> Tensor:
    return MXTensor.to_mx(weight, torch.float4_e2m1fn_x2)


def swizzled(weight: Tensor) -> Tensor:
    return MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, is_swizzled_scales=True)


@pytest.mark.parametrize(
    ("make", "part", "change", "said"),
    [(float8, "scale", lambda t: t.T, "(scale) is [2, 3], not [3, 2]"),
     (float8, "scale", lambda t: t.reshape(-1), "(scale) is [6], not [3, 2]"),
     (float8, "scale", lambda t: t * torch.nan, "stands for NaN or infinity"),
     (nvfp4, "per_tensor_scale", lambda t: t.expand(2), "(per_tensor_scale) is [2], not [1, 1] or [1] or []"),
     (nvfp4, "per_tensor_scale", lambda t: t * torch.inf, "stands for NaN or infinity"),
     (nvfp4, "scale", lambda t: t.view(torch.uint8), "(scale) holds U8, not F8_E4M3"),
     (nvfp4, "scale", lambda t: t.view(torch.float8_e8m0fnu), "(scale) holds F8_E8M0, not F8_E4M3"),
     (nvfp4, "scale", lambda t: t.view(torch.uint8).T.view(t.dtype), "(scale) is [4, 96], not [96, 4]"),
     (mx, "scale", lambda t: t.view(torch.float8_e4m3fn), "(scale) holds F8_E4M3, not F8_E8M0 or U8"),
     (swizzled, "scale", lambda t: t.view(torch.uint8).reshape(-1).view(t.dtype), "(scale) is [512], not"),
     (mx, "qdata", lambda t: t[0, 0], "is [0, 0] in groups of 32"),
     (lambda w: by_mslk(w, 32), "qdata", lambda t: t[0, 0], "is [0, 0] in blocks of [1, 32]"),
     (lambda w: by_mslk(w, 32), "scale", lambda t: t * torch.nan, "stands for NaN or infinity")],
)  # fmt: skip
def test_parts_that_do_not_fit(folder, make, part, change, said):
    save(folder, make)
    path = folder / "model.safetensors"
    tensors, notes = load_file(path), read_metadata(path)
    tensors[MODULE + part] = change(tensors[MODULE + part]).clone(memory_format=torch.contiguous_format)
    save_file(tensors, path, notes)
    assert_refused(folder, NAME, said)


@pytest.mark.parametrize(
    "element", ["fp6_e2m3", "float4_e2m1fn_x2", None, {"_data": "fp6_e2m3"}, {"_data": []}]
)
def test_elements_that_are_not_known_by_name(folder, element):
    save(folder, mx)
    edited(folder, NAME, lambda said: said["_data"].update(elem_dtype=element))
    assert_refused(folder, NAME, f"has elements {element!r}, and float4_e2m1fn_x2, float8_e4m3fn, ")


def test_notes_of_what_is_no_tensor(folder, capsys):
    """As tools write them beside the tensors' own, dots in their names."""
    save(folder, int8)
    path, expected = folder / "model.safetensors", open_checkpoint(str(folder)).state_dict(torch.float32)
    notes = {"modelspec.title": "A model", "modelspec.hash": '{"sha": 1}', "a.b.c": "[" * 100_000}
    save_file(load_file(path), path, read_metadata(path) | notes)
    state = open_checkpoint(str(folder)).state_dict(torch.float32)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("edit", "said"),
    [(lambda s: s.update(_type="Int4TilePackedTo4dTensor"), "Int4TilePackedTo4dTensor, and weights of"),
     (lambda s: "{", "what the metadata says of tensor " + NAME),
     (lambda s: "[]", "what the metadata says of tensor " + NAME),
     (lambda s: s["_data"].update(block_size=[1, 7]), "in blocks of [1, 7], no matrix of whole blocks"),
     (lambda s: s["_data"].update(block_size=[1, 16]), "(scale) is [96, 1], not [96, 4]"),
     (lambda s: s["_tensor_data_names"].append("other"), "up_proj._weight_other is missing: download"),
     (lambda s: s["_tensor_data_names"].remove("scale"), "of torchao's Int8Tensor has no scale"),
     (lambda s: s.update(_type="Int4Tensor"), "(scale) is [96, 1], not [2, 96]"),
     *((lambda s, changed=changed: s.update(changed), "what the metadata says of tensor " + NAME)
       for changed in ({"_data": [1]}, {"_data": "x"}, {"_tensor_data_names": 5},
                       {"_tensor_data_names": [{}]}, {"_tensor_data_names": "qdata"}, {"_type": ["x"]})),
     (lambda s: "[" * 100_000, "what the metadata says of tensor " + NAME),
     (lambda s: s.pop("_type") and None, "what the metadata says of tensor " + NAME)],
)  # fmt: skip
def test_what_does_not_fit(folder, edit, said):
    save(folder, int8)
    edited(folder, NAME, edit)
    assert_refused(folder, str(folder), "model.layers.1.mlp.up_proj", said)


def test_a_checkpoint_without_metadata(folder):
    save(folder, int8)
    path = folder / "model.safetensors"
    save_file(load_file(path), path)
    assert_refused(folder, "none of the tensors is")


def test_pickled_tensors_of_torchao(folder):
    """Files of torch.save, which older versions wrote, would run code of torchao's to be read."""
    state = load_file(folder / "model.safetensors")
    state = {name: int8(w) if "proj" in name else w for name, w in state.items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    config = tiny.read_json(folder / "config.json")
    tiny.write_json(folder / "config.json", config | {"quantization_config": {"quant_method": "torchao"}})
    assert_refused(folder, "pytorch_model.bin holds weights quantized as torchao.", "safetensors")
