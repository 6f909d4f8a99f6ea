"""GGUF's types of one and two bits: read as they are defined, bit by bit, and kept as integers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import family
import gguf
import numpy as np
import pytest
import torch
import transformers
from checkpoint_files import assert_refused, assert_same_weights, finish
from family import write_heads_and_base
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, far, run, run_packed
from native import export, logits
from quantized_tiny import verified

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.formats.gguf_file import read_gguf
from exporter.formats.gguf_types import tensor_type
from exporter.lowbit.ops import load
from exporter.lowbit.pack import pack_integers
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.recipe.recipe import parse_recipe

Q1_0, Q2_0, PQ2_0 = 41, 42, 142
# Number -> elements of a block, its bits, and what its integers stand for.
TYPES = {Q1_0: (128, 1, (-1, 1)), Q2_0: (64, 2, (-1, 0, 1, 2)), PQ2_0: (128, 2, (-1, 0, 1, 2))}
# Widths are whole groups of 128, as of the models that are stored so.
CASE = family.Case(
    transformers.Qwen3ForCausalLM,
    gguf.MODEL_ARCH.QWEN3,
    {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32,
     "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    write_heads_and_base,
)  # fmt: skip
chance = np.random.default_rng(7)


def blocks_of(integers: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Rows of blocks: a float16 scale, then the integers [R, groups, group], lowest bits first."""
    rows, groups, group = integers.shape
    packed = np.zeros((rows, groups, group * bits // 8), np.uint8)
    for i in range(group):
        packed[:, :, i * bits // 8] |= (integers[:, :, i] << (i * bits % 8)).astype(np.uint8)
    stored = scales.astype("<f2")[:, :, None].view(np.uint8)
    return np.concatenate([stored, packed], axis=2).reshape(rows, -1)


def of_type(number: int, rows: int, columns: int, n_levels: int = 4) -> tuple[np.ndarray, ...]:
    """Random integers of a type, its first `n_levels` levels, as it stores them and as they are, scales and
    the floats that both stand for."""
    group, bits, levels = TYPES[number]
    integers = chance.integers(0, min(len(levels), n_levels), (rows, columns // group, group))
    scales = (0.2 * chance.random((rows, columns // group)) + 0.01).astype(np.float16)
    floats = np.array(levels, np.float32)[integers] * scales.astype(np.float32)[:, :, None]
    return blocks_of(integers, scales, bits), integers.reshape(rows, -1), scales, floats.reshape(rows, -1)


@pytest.fixture(autouse=True)
def known_types(monkeypatch):
    """Types that the gguf package has no number for, so that it writes them."""
    for number, (group, bits, _) in TYPES.items():
        monkeypatch.setitem(gguf.GGML_QUANT_SIZES, number, (group, 2 + group * bits // 8))


def write(path: Path, tensors: dict[str, np.ndarray], number: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for name, data in tensors.items():
        writer.add_tensor(name, data, raw_dtype=number if data.dtype == np.uint8 else None)
    finish(writer)


@pytest.mark.parametrize("number", TYPES)
def test_blocks_are_read_as_they_are_defined(tmp_path, number):
    data, _, _, floats = of_type(number, 5, 384)
    write(tmp_path / "m.gguf", {"w": data}, number)
    file = read_gguf(tmp_path / "m.gguf")
    assert file.tensors["w"].shape == (5, 384) and file.quantized(["w"]) == f"1 {tensor_type(number).name}"
    np.testing.assert_array_equal(file.float_rows("w", 0, 5), floats)
    np.testing.assert_array_equal(file.float_rows("w", 2, 4), floats[2:4])


def test_the_first_elements_of_a_block():
    """Written out: the lowest bit is the first element's, a set one is +scale; of two bits 00 is -scale."""
    one = bytes([0x00, 0x40, 0b00000110, *[0] * 14, 0x80])  # scale 2
    found = tensor_type(Q1_0).floats(np.frombuffer(one, np.uint8)[None])[0]
    assert found[:4].tolist() == [-2, 2, 2, -2] and found[-2:].tolist() == [-2, 2]
    two = bytes([0x00, 0x38, 0x64, *[0x55] * 15])  # scale 1/2
    found = tensor_type(Q2_0).floats(np.frombuffer(two, np.uint8)[None])[0]
    assert found[:5].tolist() == [-0.5, 0, 0.5, 0, 0]


def test_a_number_that_another_program_gave_another_size(tmp_path, monkeypatch):
    """As older copies of PrismML's llama.cpp have groups of 128 under Q2_0's number."""
    data, floats = of_type(PQ2_0, 40, 256)[0], np.zeros(999, np.float32)
    with monkeypatch.context() as changed:
        changed.setitem(gguf.GGML_QUANT_SIZES, Q2_0, gguf.GGML_QUANT_SIZES[PQ2_0])
        write(tmp_path / "m.gguf", {"a": data, "b": floats}, Q2_0)
        write(tmp_path / "last.gguf", {"a": data}, Q2_0)
        changed.setitem(gguf.GGML_QUANT_SIZES, 143, gguf.GGML_QUANT_SIZES[PQ2_0])
        write(tmp_path / "other.gguf", {"a": data}, 143)
    assert_refused(tmp_path / "m.gguf", "tensor a of type Q2_0 overlaps tensor b", "another conversion")
    assert_refused(tmp_path / "last.gguf", "tensor a ends at byte", "cut short")
    assert_refused(tmp_path / "other.gguf", "tensor a has the unknown type 143")


def test_scales_beside_weights(tmp_path):
    """As llama.cpp stores NVFP4's: one number beside the weight, and one for activations."""
    model = family.make_hf(tmp_path / "hf", CASE)
    path, scales = tmp_path / "m.gguf", {"blk.0.attn_q": 0.5, "blk.1.ffn_down": 3.0}

    def with_scales(writer: gguf.GGUFWriter, model) -> None:
        for name, scale in scales.items():
            writer.add_tensor(f"{name}.scale", np.array([scale], np.float32))
            writer.add_tensor(f"{name}.input_scale", np.array([9], np.float32))

    family.write_gguf(path, model, family.replace(CASE, gguf_of_model=with_scales))
    found, plain = open_checkpoint(str(path)).state_dict(torch.float32), open_checkpoint(str(tmp_path / "hf"))
    expected = plain.state_dict(torch.float32)
    expected["layers.0.attention.wq.weight"] *= 0.5
    expected["layers.1.feed_forward.w2.weight"] *= 3
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_scale_that_is_not_finite(tmp_path, factor):
    data = of_type(Q1_0, 5, 384)[0]
    write(tmp_path / "m.gguf", {"a.weight": data, "a.scale": np.float32([factor])}, Q1_0)
    with pytest.raises(ValueError, match=rf"m.gguf: tensor a.scale is {factor}, not a number"):
        read_gguf(tmp_path / "m.gguf").float_rows("a.weight", 0, 5)


# Models


def write_model(folder: Path, case: family.Case, number: int, make):
    """Writes a tiny model whose matrices are of a type in m.gguf, and the folder `hf` of the floats that they
    stand for. `make(rows, columns)` returns a matrix as it is stored, what else is known of it, its floats.

    Returns the model, and what is known, then the stored form, by GGUF's names."""
    model, stored = family.make_hf(folder / "hf", case), {}
    names = gguf.get_tensor_name_map(case.architecture, 2)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 2 and name != "lm_head.weight":
            data, *known, floats = make(*tensor.shape)
            stored[names.get_name(name, (".weight",))] = [*known, data]
            tensor.copy_(torch.from_numpy(floats))
    model.save_pretrained(folder / "hf")
    family.write_gguf(folder / "floats.gguf", model, case)
    source = gguf.GGUFReader(folder / "floats.gguf")
    writer = gguf.GGUFWriter(folder / "m.gguf", "qwen3")
    for field in source.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for tensor in source.tensors:
        if tensor.name in stored:
            writer.add_tensor(tensor.name, stored[tensor.name][-1], raw_dtype=number)
        else:
            writer.add_tensor(tensor.name, tensor.data)
    finish(writer)
    return model, stored


@pytest.fixture(scope="module")
def one_bit(tmp_path_factory):
    """A tiny Qwen3 whose matrices have one bit in a GGUF file, its folder of the floats that these are, the
    model, and the integers and scales by GGUF's names."""
    folder = tmp_path_factory.mktemp("bits")
    return folder, *write_model(folder, CASE, Q1_0, partial(of_type, Q1_0))


def test_a_one_bit_file_holds_the_floats_of_its_folder(one_bit):
    folder, model, _ = one_bit
    files, floats = open_checkpoint(str(folder / "m.gguf")), open_checkpoint(str(folder / "hf"))
    assert files.dequantized == "15 Q1_0"
    assert_same_weights(files, floats)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    decoder = load_model(files, torch.float32, CONTEXT)
    assert far(run(decoder, LENGTH), expected) < MAX_ERROR


@pytest.mark.parametrize("source", ["m.gguf", "hf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, None])
def test_one_bit_stays_one_bit(one_bit, source, dtype):
    """The integers and scales are the file's, whichever form it has: floats of 16 bits have the same two
    levels a group, those of bfloat16 rounded ones."""
    folder, _, stored = one_bit
    checkpoint, scheme = open_checkpoint(str(folder / source)), parse_recipe("q1").linear
    gguf_names = open_checkpoint(str(folder / "m.gguf")).weights
    load()
    for name, weight in checkpoint.state_dict(dtype).items():
        if weight.ndim == 1:
            continue
        integers, scales, _ = stored[gguf_names.stored_name(name)]
        q = quantize_linear(weight, scheme)
        assert (q.format.bits, q.format.group_size, q.format.zeros) == (1, 128, "between")
        np.testing.assert_array_equal(q.values.numpy(), integers)
        wanted = torch.from_numpy(scales).float()
        assert torch.equal(q.scales, wanted.bfloat16().float() if dtype == torch.bfloat16 else wanted)
        assert torch.equal(dequantize(q), weight.float())
        packed = pack_integers(q)
        assert torch.equal(torch.ops.lowbit.unpack(packed), weight.float())
        # Beside bits and scales a header, and of each 16 rows their sums and what pads these and the scales.
        assert len(packed) <= weight.numel() * (1 + 16 / 128) / 8 + 64 + 64 * 2 * -(-len(weight) // 16)


def test_artifacts_of_one_bit(one_bit, tmp_path, capsys):
    """Both runners have the bits of eager, near the float model's logits, and `verify` finds the file's
    weights in them."""
    folder, model, stored = one_bit
    pte, package = tmp_path / "m.pte", tmp_path / "m.pt2"
    export(folder / "m.gguf", "--quantize", "q1", "--max-seq-length", CONTEXT, "--output-pte", pte,
           "--output-aoti-package", package)  # fmt: skip
    assert "1 bit is for models" not in capsys.readouterr().err
    eager = run_packed(open_checkpoint(str(folder / "m.gguf")), "q1")
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    # Activations have 8 bits a group of 128: a step is the largest's 127th, some hundred are added up.
    assert far(eager, expected) < 0.1
    for artifact in (pte, package):
        assert np.array_equal(logits(artifact, TOKENS, tmp_path), eager)
        status, out, _ = verified(capsys, artifact, folder / "m.gguf")
        assert status == 0, out


@pytest.mark.parametrize("source", ["m.gguf", "hf"])
def test_the_float_artifact_is_the_dequantized_model(one_bit, source, tmp_path):
    folder, model, _ = one_bit
    pte, package = tmp_path / "m.pte", tmp_path / "m.pt2"
    export(folder / source, "--max-seq-length", CONTEXT, "--output-pte", pte,
           "--output-aoti-package", package)  # fmt: skip
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    for artifact in (pte, package):
        assert far(logits(artifact, TOKENS, tmp_path), expected) < MAX_ERROR


# Wide enough for TQ1_0's and TQ2_0's groups of 256.
WIDE = family.replace(
    CASE, config={**CASE.config, "hidden_size": 256, "head_dim": 64, "num_hidden_layers": 1}
)


def ternary_of(number: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A random matrix of -1, 0 and 1 times a scale for each group, as the type stores it and as it is."""
    if number in TYPES:
        data, *_, floats = of_type(number, rows, columns, n_levels=3)
        return data, floats
    kind, levels = gguf.GGMLQuantizationType(number), chance.integers(-1, 2, (rows, columns))
    levels[:, ::256] = 1  # so that the scale is a group's largest
    scales = (0.2 * chance.random((rows, columns // 256)) + 0.01).astype(np.float16).astype(np.float32)
    floats = (levels * np.repeat(scales, 256, axis=1)).astype(np.float32)
    return gguf.quantize(floats, kind), floats


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("TQ1_0", "ternary"), ("TQ2_0", '{"linear:a8wx": {"bitwidth": 2, "groupsize": 256}}'),
     ("Q2_0", '{"linear:a8wx": {"bitwidth": 2, "groupsize": 64}}')],
)  # fmt: skip
def test_a_ternary_model(kind, recipe, tmp_path, capsys):
    """From the file to an artifact: the floats are what the type stores, two bits keep them, which nothing is
    said against, and the runner has eager's bits."""
    number = Q2_0 if kind == "Q2_0" else gguf.GGMLQuantizationType[kind].value
    with np.errstate(all="raise"):
        model, _ = write_model(tmp_path, WIDE, number, partial(ternary_of, number))
    path, artifact = tmp_path / "m.gguf", tmp_path / "m.pte"
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.dequantized == f"8 {kind}"
    assert_same_weights(checkpoint, open_checkpoint(str(tmp_path / "hf")))
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert far(run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH), expected) < MAX_ERROR
    scheme = parse_recipe(recipe).linear
    for name, weight in checkpoint.state_dict(torch.float32).items():
        if weight.ndim == 2 and ".w" in name:
            assert torch.equal(dequantize(quantize_linear(weight, scheme)), weight), name
    export(path, "--quantize", recipe, "--max-seq-length", CONTEXT, "--output-pte", artifact)
    assert "2 bits without zero points" not in capsys.readouterr().err
    assert np.array_equal(logits(artifact, TOKENS, tmp_path), run_packed(checkpoint, recipe))
    status, out, _ = verified(capsys, artifact, path)
    assert status == 0, out


# Integers of other types


@pytest.mark.parametrize(
    ("kind", "bits", "group"),
    [("Q4_0", 4, 32), ("Q5_0", 5, 32), ("Q8_0", 8, 32), ("TQ1_0", 2, 256), ("TQ2_0", 2, 256),
     ("TQ2_0", 2, 32), ("MXFP4", 5, 32), ("NVFP4", 5, 16)],
)  # fmt: skip
def test_integers_of_a_type_are_kept(kind, bits, group):
    """Of any integers: blocks of random bytes, with scales that are numbers."""
    number = gguf.GGMLQuantizationType[kind]
    size, n_bytes = gguf.GGML_QUANT_SIZES[number]
    data = chance.integers(0, 256, (24, 512 // size, n_bytes), np.uint8)
    scales = chance.random((24, 512 // size, 1)).astype("<f2").view(np.uint8)
    if kind == "MXFP4":  # a power of two
        data[:, :, :1] = chance.integers(110, 130, (24, 512 // size, 1))
    elif kind == "NVFP4":  # four of 8 bits without a sign
        data[:, :, :4] &= 0x3F
    elif kind.startswith("TQ"):
        data[:, :, -2:] = scales
    else:
        data[:, :, :2] = scales
    weight = torch.from_numpy(gguf.dequantize(data.reshape(24, -1), number))
    recipe = parse_recipe(f'{{"linear:a8wx": {{"bitwidth": {bits}, "groupsize": {group}}}}}')
    assert torch.equal(dequantize(quantize_linear(weight, recipe.linear)), weight)


@pytest.mark.parametrize("number", [Q2_0, PQ2_0])
@pytest.mark.parametrize("n_levels", [3, 4])
def test_two_bits_of_a_symmetric_type_are_kept(number, n_levels):
    """Ternary ones by 2 bits without zero points, all four levels by those with them."""
    *_, floats = of_type(number, 24, 512, n_levels)
    weight, zeros = torch.from_numpy(floats), "true" if n_levels == 4 else "false"
    recipe = f'{{"linear:a8wx": {{"bitwidth": 2, "groupsize": 64, "has_weight_zeros": {zeros}}}}}'
    assert torch.equal(dequantize(quantize_linear(weight, parse_recipe(recipe).linear)), weight)


def test_six_bits_of_a_k_type_keep_their_integers():
    """Q6_K's scales have 19 bits, of which 11 are stored: each value is off by that, and no integer moves."""
    number = gguf.GGMLQuantizationType.Q6_K
    data = chance.integers(0, 256, (24, 2, 210), np.uint8)
    data[:, :, -2:] = chance.random((24, 2, 1)).astype("<f2").view(np.uint8)
    weight = torch.from_numpy(gguf.dequantize(data.reshape(24, -1), number))
    recipe = parse_recipe('{"linear:a8wx": {"bitwidth": 6, "groupsize": 16}}')
    found = dequantize(quantize_linear(weight, recipe.linear))
    assert ((found - weight).abs() <= 2**-11 * weight.abs()).all()
