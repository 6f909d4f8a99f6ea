"""Weights that were quantized before keep their integers and scales; others are rounded as ever."""

import pytest
import torch

from exporter.lowbit import weights
from exporter.lowbit.grid import OF_16_BITS, OF_32_BITS, grid_numbers, grid_scales
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.recipe.recipe import parse_recipe


def scheme(bits: int, groupsize: int, zeros: bool, **more: object):
    options = {"bitwidth": bits, "groupsize": groupsize, "has_weight_zeros": zeros, **more}
    return parse_recipe(f'{{"linear:a8wx": {options}}}'.replace("'", '"').replace("True", "true")
                        .replace("False", "false")).linear  # fmt: skip


def on_grid(bits: int, group: int, zeros: bool, dtype: torch.dtype) -> torch.Tensor:
    """Random integers, few of them at the ends of their range, times scales of 16 bits."""
    random = torch.Generator().manual_seed(bits)
    half = 2 ** (bits - 1)
    q = (torch.randn(24, 256, generator=random) * half / 4).round().clamp(-half, half - 1)
    scales = (torch.rand(24, 256 // group, generator=random) * 0.1 + 0.01).to(dtype).float()
    shift = torch.randint(-half // 2, half // 2 + 1, scales.shape, generator=random) if zeros else 0 * scales
    q, shift = q.view(24, -1, group), shift[..., None]
    values = (q + shift).clamp(-half, half - 1) if not zeros else q + shift
    return (values * scales[..., None]).reshape(24, 256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["rtn", "hqq"])
@pytest.mark.parametrize(
    ("bits", "group", "ours", "zeros"),
    [(4, 128, 128, False), (4, 128, 32, False), (4, 128, 32, True), (8, 256, 64, False), (3, 64, 64, True),
     (2, 32, 32, True), (4, 32, 32, True), (8, 128, 128, True)],
)  # fmt: skip
def test_integers_are_kept(bits, group, ours, zeros, dtype, method):
    weight = on_grid(bits, group, zeros, dtype)
    assert torch.equal(dequantize(quantize_linear(weight, scheme(bits, ours, zeros, method=method))), weight)


@pytest.mark.parametrize(("bits", "zeros"), [(8, False), (8, True), (6, False), (4, True), (2, False)])
def test_scales_of_32_bits_are_rounded_and_integers_kept(bits, zeros):
    """Each value is off by its scale's rounding, half a last bit of 11 and of what packing keeps, and not by
    half a step of the smallest."""
    weight = on_grid(bits, 64, zeros, torch.float32)
    found = dequantize(quantize_linear(weight, scheme(bits, 32, zeros)))
    assert ((found - weight).abs() <= 2**-11 * weight.abs()).all() and not torch.equal(found, weight)


def test_groups_that_are_off_the_grid_are_rounded(monkeypatch):
    weight = on_grid(4, 32, False, torch.float16)
    weight[4] = torch.randn(256)
    weight[5, :32] = 0
    found = dequantize(quantize_linear(weight, scheme(4, 32, False)))
    kept = [row for row in range(24) if row != 4]
    assert torch.equal(found[kept], weight[kept])
    monkeypatch.setattr(weights, "grid_scales", lambda *_: None)
    searched = dequantize(quantize_linear(weight, scheme(4, 32, False)))
    assert torch.equal(found[4], searched[4]) and not torch.equal(found, searched)


@pytest.mark.parametrize("zeros", [False, True])
def test_other_weights_lie_on_none(zeros):
    groups = torch.randn(500, 32)
    for scales in (OF_16_BITS, OF_32_BITS):
        assert not grid_numbers(groups, 4, zeros, scales)[0].any()
        assert not grid_numbers(groups.to(torch.bfloat16).float(), 4, zeros, scales)[0].any()
    assert grid_scales(groups, 4, 32, zeros) is None


@pytest.mark.parametrize("zeros", [False, True])
def test_eight_rows_tell_the_kind_of_scales(zeros):
    for dtype, scales in (
        (torch.float16, OF_16_BITS), (torch.bfloat16, OF_16_BITS), (torch.float32, OF_32_BITS),
    ):  # fmt: skip
        assert grid_scales(on_grid(4, 64, zeros, dtype), 4, 32, zeros) == scales
        assert grid_scales(on_grid(4, 64, zeros, dtype), 3, 32, zeros) is None
    assert grid_scales(torch.zeros(24, 256), 4, 32, zeros) is None


def test_only_groups_off_the_grid_are_searched(monkeypatch):
    searched, found = [], weights._quantizer

    def counting(algorithm, form):
        quantizer = found(algorithm, form)
        return lambda rows, form: (searched.append(rows.numel()), quantizer(rows, form))[1]

    monkeypatch.setattr(weights, "_quantizer", counting)
    weight = on_grid(8, 64, False, torch.float32)
    quantize_linear(weight, scheme(8, 32, False))
    assert not searched
    weight[4, 64:128] = torch.randn(64)
    quantize_linear(weight, scheme(8, 32, False))
    assert sum(searched) == 64


def test_few_values_with_a_scale_of_32_bits_are_rounded():
    """Fewer than eight that are not 0 lie on many grids; the other groups are kept."""
    weight = on_grid(4, 32, False, torch.float32)
    weight[2, 7:32] = 0
    found = dequantize(quantize_linear(weight, scheme(4, 32, False)))
    near = (found - weight).abs() <= 2**-11 * weight.abs()
    near[2, :32] = True
    assert near.all() and (found[2, 7:32] == 0).all()


@pytest.mark.parametrize("zeros", [False, True])
def test_more_bits_keep_them_too(zeros):
    weight = on_grid(4, 64, zeros, torch.float16)
    for bits in (5, 6, 8):
        assert torch.equal(dequantize(quantize_linear(weight, scheme(bits, 32, zeros))), weight)
    assert not torch.equal(dequantize(quantize_linear(weight, scheme(3, 32, zeros))), weight)
