"""bitsandbytes' checkpoints, written from the description of its format: read to every element, or refused.

The reader was held against bitsandbytes 0.50.2's own dequantization, which tests do without.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from checkpoint_files import assert_refused
from quantized_checkpoints import assert_floats, quantize

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.recipe.recipe import parse_recipe

chance = np.random.default_rng(0)
CONFIG = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
# QLoRA's table (appendix E), in float32.
NF4 = np.float32([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
    1.0,
])  # fmt: skip
FP4 = np.float32([0, 0.0052083, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4])
TABLES = {"nf4": NF4, "fp4": np.concatenate([FP4, -FP4])}
NESTED = 32  # scales that share one


def as_bytes(content: dict) -> torch.Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def four_bits(kind: str, block: int, nested: bool, storage: torch.dtype):
    """Returns what makes a matrix in 4 bits: random codes, two a byte, the first in the upper half."""

    def make(module, rows, columns):
        n, table = rows * columns, TABLES[kind]
        codes, n_blocks = chance.integers(0, 16, n), -(-n // block)
        state = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]}
        parts = {"weight.quant_map": table.copy()}
        scales = chance.random(n_blocks).astype(np.float32)
        parts["weight.absmax"] = scales
        if nested:
            whole = chance.random(-(-n_blocks // NESTED)).astype(np.float32)
            small, own = chance.integers(0, 256, n_blocks), np.linspace(-1, 1, 256, dtype=np.float32)
            for i in range(n_blocks):
                scales[i] = own[small[i]] * whole[i // NESTED] + np.float32(0.75)
            parts |= {"weight.absmax": small.astype(np.uint8), "weight.nested_absmax": whole,
                      "weight.nested_quant_map": own}  # fmt: skip
            state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": 0.75}
        parts[f"weight.quant_state.bitsandbytes__{kind}"] = as_bytes(state)
        packed = torch.from_numpy((codes[::2] << 4 | codes[1::2]).astype(np.uint8))
        parts["weight"] = packed.view(storage).reshape(-1, 1)
        weight = np.empty(n, np.float32)
        for i in range(n):
            weight[i] = table[codes[i]] * scales[i // block]
        return parts, weight.reshape(rows, columns)

    return make


@pytest.mark.parametrize(
    ("kind", "block", "nested", "storage"),
    [("nf4", 64, False, torch.uint8), ("nf4", 64, True, torch.uint8), ("fp4", 128, False, torch.uint8),
     ("nf4", 4096, True, torch.bfloat16), ("fp4", 64, True, torch.float32),
     ("nf4", 2**40, True, torch.uint8), ("nf4", 2**70, False, torch.uint8)],
)  # fmt: skip
def test_four_bits(folder, capsys, kind, block, nested, storage):
    """In blocks that are parts of a row, and of several rows; codes may lie in floats' places."""
    expected = quantize(folder, CONFIG, four_bits(kind, block, nested, storage))
    assert_floats(folder, expected, f"bitsandbytes' {kind.upper()}", capsys)


def test_a_block_of_scales_that_is_longer_than_they_are(folder, capsys, monkeypatch):
    """As in small models, whose matrices have less than 256 blocks."""
    monkeypatch.setitem(globals(), "NESTED", 2**70)
    expected = quantize(folder, CONFIG, four_bits("nf4", 64, True, torch.uint8))
    assert_floats(folder, expected, "bitsandbytes' NF4", capsys)


def eight_bits(module, rows, columns):
    q = chance.integers(-127, 128, (rows, columns)).astype(np.int8)
    scales = chance.random(rows).astype(np.float32)
    parts = {"weight": q, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, q.astype(np.float32) * (scales / np.float32(127))[:, None]


def test_eight_bits(folder, capsys):
    """And their integers are kept by 8 bits: each weight is off by its scale's rounding to 11 bits."""
    expected = quantize(folder, {"quant_method": "bitsandbytes", "load_in_8bit": True}, eight_bits)
    assert_floats(folder, expected, "bitsandbytes' 8-bit integers", capsys)
    for weight in map(torch.from_numpy, expected.values()):
        found = dequantize(quantize_linear(weight, parse_recipe("q8").linear))
        assert ((found - weight).abs() <= 2**-11 * weight.abs()).all()


# What is refused


NAME = "model.layers.1.mlp.up_proj"
STATE = "weight.quant_state.bitsandbytes__nf4"
WHOLE = {"blocksize": 64, "shape": [96, 64]}


@pytest.mark.parametrize(
    ("change", "said"),
    [({"weight.absmax": None}, f"{NAME}.weight.absmax is missing"),
     ({"weight.quant_map": None}, f"{NAME}.weight.quant_map is missing"),
     ({"weight.nested_absmax": None}, f"{NAME}.weight.nested_absmax is missing"),
     ({"weight.absmax": torch.zeros(9, dtype=torch.uint8)}, f"{NAME}.weight.absmax is [9], not [96]"),
     ({"weight.absmax": torch.zeros(96)}, f"{NAME}.weight.absmax holds F32, not U8"),
     ({"weight.quant_map": torch.zeros(8)}, f"{NAME}.weight.quant_map is [8], not [16]"),
     ({"weight": torch.zeros(9, 1, dtype=torch.uint8)}, f"{NAME}.weight of [9, 1] U8 does not hold 4 bits"),
     ({STATE: as_bytes({"blocksize": 64})}, f"{NAME}.weight.quant_state says is damaged"),
     ({STATE: as_bytes({"blocksize": 0, "shape": [96, 64]})}, f"{NAME}.weight.quant_state says is damaged"),
     ({STATE: as_bytes({"blocksize": 64, "shape": [96]})}, f"{NAME}.weight.quant_state says is damaged"),
     ({STATE: torch.tensor([255], dtype=torch.uint8)}, f"{NAME}.weight.quant_state says is damaged"),
     ({STATE: torch.tensor([ord("[")] * 100_000, dtype=torch.uint8)}, "quant_state says is damaged"),
     *(({STATE: as_bytes(WHOLE | {"nested_blocksize": 32} | more)}, "quant_state says is damaged")
       for more in ({}, {"nested_offset": 10**400}, {"nested_offset": 1e39}, {"nested_offset": True},
                    {"nested_offset": float("nan")}, {"nested_offset": "0"})),
     ({"weight.absmax": torch.zeros(97, dtype=torch.uint8)}, "absmax is [97], not [96]")],
)  # fmt: skip
def test_four_bits_that_do_not_fit(folder, change, said):
    def make(module, rows, columns):
        parts, expected = four_bits("nf4", 64, True, torch.uint8)(module, rows, columns)
        if module == NAME:
            parts = {end: part for end, part in (parts | change).items() if part is not None}
        return parts, expected

    quantize(folder, CONFIG, make)
    assert_refused(folder, str(folder), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"SCB": torch.ones(7)}, "SCB is [7], not [96]"), ({"weight": torch.ones(96, 64)}, "weight holds F32"),
     ({"weight_format": torch.tensor(1, dtype=torch.uint8)}, "weight lies in the tiles of a GPU")],
)  # fmt: skip
def test_eight_bits_that_do_not_fit(folder, change, said):
    def make(module, rows, columns):
        parts, expected = eight_bits(module, rows, columns)
        return parts | (change if module == NAME else {}), expected

    quantize(folder, {"quant_method": "bitsandbytes", "load_in_8bit": True}, make)
    assert_refused(folder, str(folder), f"{NAME}.{said}")


@pytest.mark.parametrize(
    ("made", "change"),
    [(four_bits("nf4", 64, True, torch.uint8), {"weight.nested_absmax": torch.full((3,), torch.nan)}),
     (four_bits("nf4", 64, False, torch.uint8), {"weight.absmax": torch.full((96,), torch.inf)}),
     (four_bits("fp4", 64, False, torch.uint8), {"weight.quant_map": torch.full((16,), torch.nan)}),
     (eight_bits, {"SCB": torch.full((96,), torch.inf)})],
)  # fmt: skip
def test_numbers_that_are_not_finite(folder, made, change):
    def make(module, rows, columns):
        parts, expected = made(module, rows, columns)
        return parts | (change if module == NAME else {}), expected

    quantize(folder, CONFIG, make)
    assert_refused(folder, f"tensor {NAME}.weight stands for NaN or infinity", "download it again")


def test_another_shape_than_the_config_says(folder):
    def make(module, rows, columns):
        return four_bits("nf4", 64, False, torch.uint8)(module, columns, rows)

    quantize(folder, CONFIG, make)
    with pytest.raises(ValueError, match="misshapen"):
        open_checkpoint(str(folder))
