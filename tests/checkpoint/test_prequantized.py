"""Checkpoints that are quantized already: their weights are what the formats' documents say, written here
element by element, and what does not fit is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import assert_refused
from native import export
from quantized_checkpoints import assert_floats, quantize

from exporter.cli import main as cli
from exporter.formats.prequantized.matrix import unpacked
from exporter.formats.prequantized.methods import find_method
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.recipe.recipe import parse_recipe

chance = np.random.default_rng(0)


def words_of(values: np.ndarray, bits: int) -> np.ndarray:
    """Packs each row's integers into words of 32 bits, one after another from the lowest bit on."""
    rows = []
    for row in values:
        number = sum(int(value) << (bits * i) for i, value in enumerate(row))
        n_words = -(-len(row) * bits // 32)
        rows.append([number >> (32 * i) & 0xFFFFFFFF for i in range(n_words)])
    return np.array(rows, np.uint32).view(np.int32)


@pytest.mark.parametrize("bits", range(1, 9))
def test_unpacking(bits):
    values = chance.integers(0, 1 << bits, (3, 50))
    np.testing.assert_array_equal(unpacked(words_of(values, bits).view(np.uint32), bits, 50), values)


# GPTQ and AWQ


@pytest.mark.parametrize(
    ("bits", "version", "act_order", "group"),
    [(4, "gptq", False, 32), (4, "gptq_v2", True, 32), (8, None, True, -1), (2, "gptq", False, 32),
     (3, "gptq", False, 32)],
)  # fmt: skip
def test_gptq(folder, capsys, bits, version, act_order, group):
    def make(module, rows, columns):
        groups = 1 if group == -1 else columns // group
        q, z = chance.integers(0, 1 << bits, (columns, rows)), chance.integers(0, 1 << bits, (groups, rows))
        s = chance.normal(size=(groups, rows)).astype(np.float16)
        g = chance.permutation(columns) % groups if act_order else np.arange(columns) * groups // columns
        stored = z if version == "gptq_v2" else (z - 1) % (1 << bits)
        weight = np.empty((rows, columns), np.float32)
        for k in range(columns):
            weight[:, k] = s[g[k]].astype(np.float32) * (q[k] - z[g[k]])
        parts = {"qweight": words_of(q.T, bits).T, "qzeros": words_of(stored, bits), "scales": s}
        return parts | ({"g_idx": g.astype(np.int32)} if act_order else {}), weight

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order, "sym": False}
    expected = quantize(folder, config | ({"checkpoint_format": version} if version else {}), make)
    assert_floats(folder, expected, f"GPTQ, {bits} bits", capsys)


def test_awq(folder, capsys):
    order = (0, 2, 4, 6, 1, 3, 5, 7)  # of awq's packing: field i of a word holds this output

    def packed(values):
        words = np.zeros((len(values), values.shape[1] // 8), np.uint32)
        for column in range(words.shape[1]):
            for i, output in enumerate(order):
                words[:, column] |= values[:, 8 * column + output].astype(np.uint32) << np.uint32(4 * i)
        return words.view(np.int32)

    def make(module, rows, columns):
        q, z = chance.integers(0, 16, (columns, rows)), chance.integers(0, 16, (columns // 32, rows))
        s = chance.normal(size=(columns // 32, rows)).astype(np.float16)
        weight = np.empty((rows, columns), np.float32)
        for k in range(columns):
            weight[:, k] = s[k // 32].astype(np.float32) * (q[k] - z[k // 32])
        return {"qweight": packed(q), "qzeros": packed(z), "scales": s}, weight

    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    expected = quantize(folder, config, make)
    assert_floats(folder, expected, "AWQ, 4 bits", capsys)
    for weight in map(torch.from_numpy, expected.values()):
        assert torch.equal(dequantize(quantize_linear(weight, parse_recipe("q4").linear)), weight)


# 8-bit floats and integers


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_blocks_of_8_bit_floats(folder, capsys, dtype, scales):
    """DeepSeek's and Qwen's; the last blocks of a matrix may be smaller."""

    def make(module, rows, columns):
        weight = torch.randn(rows, columns).to(dtype)
        scale = (torch.rand(-(-rows // 48), -(-columns // 40)) + 0.5).to(scales)
        expected = torch.empty(rows, columns)
        for n in range(rows):
            for k in range(columns):
                expected[n, k] = weight[n, k].float() * scale[n // 48, k // 40].float()
        return {"weight": weight, "weight_scale_inv": scale}, expected.numpy()

    config = {"quant_method": "fp8", "weight_block_size": [48, 40], "activation_scheme": "dynamic"}
    assert_floats(folder, quantize(folder, config, make), "8-bit floats with scales", capsys)


COMPRESSED = {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "kv_cache_scheme": None}


@pytest.mark.parametrize("shape", ["matrix", "scalar", "row", "group"])
@pytest.mark.parametrize("kind", ["float", "int", "int with zeros"])
def test_compressed_8_bits(folder, capsys, kind, shape):
    def make(module, rows, columns):
        sizes = {"matrix": (1,), "scalar": (), "row": (rows, 1), "group": (rows, columns // 16)}[shape]
        scale = torch.rand(sizes).to(torch.bfloat16)
        spread = scale.float().reshape(-1, 1) if shape == "row" else scale.float()
        zero = torch.randint(-9, 9, sizes, dtype=torch.int8) * (kind == "int with zeros")
        zeros = zero.float()
        if shape == "group":
            spread, zeros = spread.repeat_interleave(16, 1), zeros.repeat_interleave(16, 1)
        if kind == "float":
            weight = torch.randn(rows, columns).to(torch.float8_e4m3fn)
            parts = {"input_scale": torch.ones(1)}
        else:
            weight = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
            parts = {"weight_zero_point": zero} if kind == "int with zeros" else {}
        return parts | {"weight": weight, "weight_scale": scale}, ((weight.float() - zeros) * spread).numpy()

    name, format = ("floats", "float-quantized") if kind == "float" else ("integers", "int-quantized")
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": kind.split()[0]}}
    expected = quantize(folder, COMPRESSED | {"format": format, "config_groups": {"group_0": group}}, make)
    assert_floats(folder, expected, f"8-bit {name} with scales", capsys)


@pytest.mark.parametrize(
    ("bits", "zeros", "reordered", "groups"),
    [(4, False, False, 2), (4, True, True, 4), (8, False, False, 1), (2, True, False, 2)],
)
def test_compressed_and_packed(folder, capsys, bits, zeros, reordered, groups):
    def make(module, rows, columns):
        half = 1 << (bits - 1)
        q = chance.integers(-half, half, (rows, columns))
        z = chance.integers(-half, half, (rows, groups)) if zeros else np.zeros((rows, groups), int)
        s = torch.rand(rows, groups).to(torch.bfloat16)
        g = chance.permutation(columns) % groups if reordered else np.arange(columns) // (columns // groups)
        parts = {
            "weight_packed": words_of(q + half, bits), "weight_scale": s,
            "weight_shape": torch.tensor([rows, columns]),
        }  # fmt: skip
        parts |= {"weight_zero_point": words_of((z + half).T, bits).T} if zeros else {}
        parts |= {"weight_g_idx": g.astype(np.int32)} if reordered else {}
        return parts, ((q - z[:, g]) * s.float().numpy()[:, g]).astype(np.float32)

    weights = {"num_bits": bits, "type": "int", "strategy": "group", "symmetric": not zeros}
    config = COMPRESSED | {"format": "pack-quantized", "config_groups": {"group_0": {"weights": weights}}}
    assert_floats(folder, quantize(folder, config, make), f"packed, {bits} bits", capsys)


@pytest.mark.parametrize("kind", ["MXFP4", "NVFP4"])
def test_4_bit_floats(folder, capsys, kind):
    values = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    group = 32 if kind == "MXFP4" else 16

    def make(module, rows, columns):
        codes = chance.integers(0, 16, (rows, columns))
        parts = {"weight_packed": (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)}
        if kind == "MXFP4":
            exponents = chance.integers(110, 130, (rows, columns // group)).astype(np.uint8)
            parts["weight_scale"], scale = exponents, 2.0 ** (exponents.astype(int) - 127)
        else:
            stored, whole = torch.rand(rows, columns // group).to(torch.float8_e4m3fn), torch.tensor([3.5])
            parts |= {"weight_scale": stored, "weight_global_scale": whole, "input_global_scale": whole + 1}
            scale = (stored.float() / whole).numpy()
        weight = np.empty((rows, columns), np.float32)
        for n in range(rows):
            for k in range(columns):
                weight[n, k] = (-1) ** (codes[n, k] >> 3) * values[codes[n, k] & 7] * scale[n, k // group]
        return parts, weight

    config = COMPRESSED | {"format": f"{kind.lower()}-pack-quantized"}
    assert_floats(folder, quantize(folder, config, make), kind, capsys)


def test_an_artifact_of_quantized_weights(folder, tmp_path, capsys):
    """Exported and verified as any other."""

    def make(module, rows, columns):
        weight = (0.2 * torch.randn(rows, columns)).to(torch.float8_e4m3fn)
        scale = torch.rand(rows, 1)
        return {"weight": weight, "weight_scale": scale}, (weight.float() * scale).numpy()

    quantize(folder, COMPRESSED | {"format": "float-quantized"}, make)
    export(folder, "--output-pte", tmp_path / "m.pte")
    assert cli.main(["verify", str(tmp_path / "m.pte"), "--checkpoint", str(folder)]) == 0
    assert "8-bit floats with scales" in capsys.readouterr().err


# What is refused


def awq_parts(module, rows, columns):
    parts = {"qweight": torch.zeros(columns, rows // 8, dtype=torch.int32),
             "qzeros": torch.zeros(columns // 32, rows // 8, dtype=torch.int32),
             "scales": torch.ones(columns // 32, rows, dtype=torch.float16)}  # fmt: skip
    return parts, np.zeros((rows, columns), np.float32)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}


def test_biases_of_zeros(folder, capsys):
    """GPTQ's tools add them to layers without a bias; others are extra tensors."""

    def with_bias(value):
        def make(module, rows, columns):
            parts, expected = awq_parts(module, rows, columns)
            return parts | {"bias": torch.full((rows,), value)}, expected
        return make

    other = Path(shutil.copytree(folder, folder.with_name("other")))
    assert_floats(folder, quantize(folder, AWQ, with_bias(0.0)), "AWQ, 4 bits", capsys)
    quantize(other, AWQ, with_bias(1.0))
    assert_refused(other, "14 extra", "_proj.bias")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"quant_method": "aqlm"}, "'aqlm'"), ({"bits": 3}, "bits 3"), ({"version": "gemv"}, "'gemv'"),
     ({"group_size": 0}, "group_size 0"), ({"group_size": 64}, "scales"),
     ({"group_size": None}, "group_size None"),
     ({"quant_method": "gptq", "dynamic": {"a": {}}}, "dynamic"),
     ({"quant_method": "gptq"}, "scales"),
     ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "'marlin'"),
     ({"quant_method": "fp8"}, "none of the tensors"),
     ({"quant_method": "fp8", "weight_block_size": 3}, "blocks of 3"),
     ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "'marlin-24'"),
     ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24"}}, "'sparse-24'"),
     ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "none of the tensors"),
     ({"quant_method": "hqq"}, "'hqq'")],
)  # fmt: skip
def test_methods_that_are_not_read(folder, change, said):
    quantize(folder, AWQ | change, awq_parts)
    assert_refused(folder, str(folder), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"qzeros": None}, "qzeros is missing"), ({"scales": torch.ones(3, 8)}, "scales is [3, 8]"),
     ({"qweight": torch.zeros(64, 8)}, "qweight holds F32"),
     ({"qweight": torch.zeros(8, dtype=torch.int32)}, "qweight is [8], no matrix")],
)  # fmt: skip
def test_parts_that_do_not_fit(folder, change, said):
    def make(module, rows, columns):
        parts, expected = awq_parts(module, rows, columns)
        if module.endswith("1.self_attn.o_proj"):
            parts = {end: part for end, part in (parts | change).items() if part is not None}
        return parts, expected

    quantize(folder, AWQ, make)
    assert_refused(folder, str(folder), "model.layers.1.self_attn.o_proj." + said)


def test_matrices_of_another_model(folder):
    quantize(folder, AWQ, lambda module, rows, columns: awq_parts(module, rows + 8, columns))
    assert_refused(folder, "14 misshapen")


TENSORS = "compressed-tensors"


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"quant_method": []}, r"quantization_config {'quant_method': \[\]}: "),
     ({"quant_method": {}}, "read are gptq"),
     ({"quant_method": ["gptq"]}, r"quantization_config \['gptq'\]"),
     ({"quant_method": TENSORS, "sparsity_config": [1]}, r"sparsity_config is \[1\], not an object"),
     ({"quant_method": TENSORS, "config_groups": [1]}, r"config_groups is \[1\], not an object"),
     ({"quant_method": TENSORS, "config_groups": {"g": 1}}, "g is 1, not an object"),
     ({"quant_method": TENSORS, "config_groups": {"g": {"weights": 1}}}, "weights is 1, not an"),
     ({"quant_method": TENSORS, "config_groups": {"g": {"weights": {"block_structure": 5}}}},
      "blocks of 5, not of rows and columns"),
     ({"quant_method": TENSORS, "format": []}, r"format \[\]"),
     ({"quant_method": TENSORS, "format": 5, "config_groups": {"g": {"format": "x"}}}, "format 5"),
     ({"quant_method": "gptq", "bits": [4], "group_size": 32}, r"bits \[4\]"),
     ({"quant_method": "gptq", "bits": 4, "group_size": [32]}, r"group_size \[32\]"),
     ({"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": [1]}, r"dynamic \[1\]"),
     ({"quant_method": "fp8", "weight_block_size": [True, 128]}, r"blocks of \[True, 128\]")],
)  # fmt: skip
def test_damaged_quantization_configs(fields, said):
    with pytest.raises(ValueError, match=said):
        find_method(fields)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_nested_too_deep(folder, capsys, name):
    (folder / name).write_text("[" * 100_000)
    assert cli.main([str(folder), "--output-pte", str(folder / "m.pte"), "--max-seq-length", "16"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and name in last
