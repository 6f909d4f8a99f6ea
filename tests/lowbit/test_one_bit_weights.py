"""Weights of one bit: the levels -scale and +scale, or with zero points 0 and one of them."""

import pytest
import torch
from quantized_weights import HALF_ROUNDING, native, weights

from exporter.formats.packed_header import read_matrix
from exporter.lowbit.ops import load
from exporter.lowbit.pack import pack_integers
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.recipe.schemes import SCALE_DTYPES


def test_one_bit_with_zeros_keeps_the_better_side():
    weight = torch.tensor([[1.0] * 16 + [-0.1] * 16, [-1.0] * 16 + [0.1] * 16])
    kept = dequantize(quantize_linear(weight, native(1, True)))
    torch.testing.assert_close(kept, weight.where(weight.abs() == 1, 0), rtol=0.02, atol=0)


@pytest.mark.parametrize("method", ["rtn", "hqq"])
@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
@pytest.mark.parametrize("groupsize", [16, 32, 128])
@pytest.mark.parametrize("columns", [128, 100, 24])
class TestTwoLevels:
    def test_weights_of_two_levels_survive(self, columns, groupsize, scale_dtype, method):
        """To the last bit where scales are float16 numbers; int8 ones are a row's, in one step."""
        generator = torch.Generator().manual_seed(columns)
        signs = torch.randint(0, 2, (20, columns), generator=generator) * 2.0 - 1
        n_scales = 1 if scale_dtype == "int8" else -(-columns // groupsize)
        scales = (torch.rand(20, n_scales, generator=generator) + 0.1).half().float()
        weight = signs * scales.repeat_interleave(-(-columns // n_scales), 1)[:, :columns]
        if n_scales > 1:
            weight = signs * scales.repeat_interleave(groupsize, 1)[:, :columns]
        q = quantize_linear(weight, native(1, False, method, groupsize, scale_dtype))
        assert q.format.zeros == "between" and q.zeros is None
        kept = dequantize(q)
        if scale_dtype == "float16":
            assert torch.equal(kept, weight)
        torch.testing.assert_close(kept, weight, rtol=2 * HALF_ROUNDING, atol=0)
        load()
        packed = pack_integers(q)
        assert torch.equal(torch.ops.lowbit.unpack(packed), kept)
        header = read_matrix(packed.numpy().tobytes(), "w")
        assert header.version == 4 and "levels -1 and +1" in header.text()


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
@pytest.mark.parametrize("columns", [128, 100, 24])
def test_two_levels_at_the_mean_magnitude(columns, scale_dtype):
    """The signs and, of the weights there are, whatever pads the last group, the scale of XNOR-Net."""
    weight = weights(40, columns)[8:]
    q = quantize_linear(weight, native(1, scale_dtype=scale_dtype))
    assert torch.equal(q.values, (weight > 0).byte())
    for group, found in zip(weight.split(q.format.group_size, 1), q.scales.t(), strict=True):
        exact = group.abs().mean(1)
        if scale_dtype == "float16":
            torch.testing.assert_close(found, exact, rtol=HALF_ROUNDING, atol=0)
        else:
            assert (found - exact).abs().max() <= q.scales.abs().max() / 254 * 1.01
