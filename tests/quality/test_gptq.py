"""GPTQ, its refit and its descent: each lowers the error, and torchao's arithmetic agrees."""

import inspect
import json

import pytest
import tiny
import torch
from quantized_tiny import quantized
from torch import Tensor

from exporter.lowbit.search import SMALLEST
from exporter.lowbit.weights import (
    WeightFormat,
    dequantize,
    quantize_linear,
    rounded,
    weight_format,
)
from exporter.quality import calibrated, layerwise
from exporter.quality import gptq as ours
from exporter.quality.calibrated import Moments
from exporter.quality.checkpointing import Work
from exporter.quality.gptq import GptqOptions, SingularHessian, gptq
from exporter.recipe.recipe import parse_recipe
from exporter.recipe.schemes import SCALE_DTYPES, LinearScheme


def layer(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight [N, K] and the second moment [K, K] of inputs that are correlated."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.1
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    scale = torch.rand(columns, generator=generator) * 2 + 0.1
    inputs = (torch.randn(4 * columns, columns, generator=generator) @ mix) * scale
    inputs = inputs + torch.randn(4 * columns, 1, generator=generator)
    return weight, inputs.T @ inputs / len(inputs)


def output_error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T), D the difference: the relative squared error of the outputs."""
    difference = weight - quantized
    error = ((difference @ hessian) * difference).sum()
    return float(error / ((weight @ hessian) * weight).sum())


class TestGptq:
    @pytest.mark.parametrize("bits", [2, 3, 4])
    @pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
    @pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
    @pytest.mark.parametrize(("columns", "group"), [(96, 32), (80, 32), (72, 48), (64, 64)])
    def test_each_step_lowers_the_error(self, bits, zeros, columns, group, scale_dtype):
        weight, hessian = layer(48, columns)
        scheme = LinearScheme("linear:a8wx", group, bits, zeros, scale_dtype=scale_dtype)
        form = weight_format(scheme, columns)
        found = [quantize_linear(weight, scheme)]
        for options in (GptqOptions(rounds=0), GptqOptions(rounds=1), GptqOptions()):
            q = gptq(weight, hessian, form, options)
            found.append(q)
            groups = -(-columns // group)
            assert q.format == form and q.values.dtype == torch.uint8
            assert q.values.shape == weight.shape and q.scales.shape == (48, groups)
            assert int(q.values.max()) < 2**bits and q.scales.isfinite().all()
            assert (q.zeros is not None) == zeros
            if zeros:
                assert torch.equal(q.zeros, q.zeros.round())
                assert q.zeros.min() >= 0 and q.zeros.max() < 2**bits
            assert torch.equal(rounded(q).scales, q.scales)  # packing keeps them
        errors = [output_error(weight, dequantize(q), hessian) for q in found]
        assert errors[1] < 0.8 * errors[0]
        assert errors[3] < errors[2] < errors[1]

    @pytest.mark.parametrize("zeros", ["none", "integer"])
    def test_scales_and_levels_are_the_best_ones(self, zeros):
        """The refit against least squares in float64, the descent against one weight after another,
        over more columns than a block; a scale that is 0 and one that is negative."""
        weight, hessian = layer(6, 80)
        form = WeightFormat(3, 16, zeros)
        H, W = ours._damped(hessian, 0.01, 80).double(), weight.t().double()
        scales, zero = (part.t().contiguous() for part in ours.search_scales(weight, H.diagonal(), form))
        scales[2, 3], scales[1, 4] = 0, -scales[1, 4]
        grid = ours._Grid(scales, zero, form)
        groups = torch.arange(80) // 16
        levels = (W / torch.where(scales == 0, SMALLEST, scales)[groups]).round()
        levels = levels.clamp(-zero[groups], grid.limit - zero[groups]).float()
        HW = (H @ W).float()

        found = ours._descend(HW, H.float(), levels, grid)
        Q, agree = levels.double() * scales[groups], torch.ones_like(found, dtype=torch.bool)
        for j in range(80):
            residual = H[j] @ (W - Q)
            best = (Q[j] + residual / H[j, j]) / torch.where(scales == 0, SMALLEST, scales)[groups[j]]
            best = best.clamp(-zero[groups[j]], grid.limit - zero[groups[j]])
            agree[j] = (found[j] - best).abs() < 0.5 + 1e-3  # the nearest, but for rounding
            Q[j] = found[j].double() * scales[groups[j]]
        assert agree.all() and (found != levels).float().mean() > 0.05

        refitted = ours._refit(HW, H.float(), levels, grid)
        for n in range(6):
            columns = torch.stack([levels[:, n].double() * (groups == g) for g in range(5)], 1)
            used = columns.any(0)  # a group of zeros keeps its scale
            columns = columns[:, used]
            best = torch.linalg.solve(columns.t() @ H @ columns, columns.t() @ H @ W[:, n])
            torch.testing.assert_close(refitted[n, used].double(), best, rtol=1e-3, atol=1e-5)
            assert torch.equal(refitted[n, ~used], scales[~used, n])

    @pytest.mark.parametrize("zeros", ["none", "integer"])
    @pytest.mark.parametrize("value", [0.0, 1e-37, 1e-39])
    def test_a_group_of_next_to_nothing(self, zeros, value):
        """A group whose scale has no reciprocal, its first column exactly 0: it spoils none of the others,
        and takes up what they cannot."""
        weight, hessian = layer(8, 96)
        weight[3, 32:64] = 0
        weight[3, 40] = value
        factors = torch.ones(96)
        factors[33] = 2 * (hessian.diagonal().max() / hessian[33, 33]).sqrt()  # the first to be rounded
        hessian *= factors * factors[:, None]
        form = WeightFormat(4, 32, zeros)
        error = output_error(weight[3:4], dequantize(gptq(weight, hessian, form))[3:4], hessian)
        plain = dequantize(gptq(weight, torch.eye(96), form))  # each by itself
        assert error < 0.8 * output_error(weight[3:4], plain[3:4], hessian)

    def test_rows_of_several_widths_are_as_if_alone(self):
        weight, hessian = layer(70, 64)
        form = WeightFormat(6, 32, "none", "int8", ((16, 4), (48, 2)))
        q = gptq(weight, hessian, form)
        assert q.format == form
        for part, (rows, own) in zip(q.parts(), form.parts(70), strict=True):
            alone = gptq(weight[rows], hessian, own)
            assert torch.equal(part.values, alone.values)
            assert torch.equal(part.scales, alone.scales)

    @pytest.mark.parametrize("scale_dtype", ["float16", "int8"])
    @pytest.mark.parametrize("columns", [96, 72])
    def test_two_levels(self, columns, scale_dtype):
        """Less error at the outputs than by rounding; weights of two levels stay, the last group too."""
        form = WeightFormat(1, 32, "between", scale_dtype)
        weight, hessian = layer(24, columns)
        q = gptq(weight, hessian, form)
        assert q.format == form and q.zeros is None and int(q.values.max()) == 1
        plain = dequantize(gptq(weight, torch.eye(columns), form))  # each by itself
        assert output_error(weight, dequantize(q), hessian) < 0.8 * output_error(weight, plain, hessian)
        levels = weight.sign() * 0.75 * torch.arange(1, 25)[:, None]
        kept = dequantize(gptq(levels, hessian, form))
        torch.testing.assert_close(kept, levels, rtol=2e-3, atol=0)

    def test_rows_of_one_bit_among_others(self):
        weight, hessian = layer(70, 64)
        q = gptq(weight, hessian, WeightFormat(1, 32, "between", bits_from_row=((16, 4), (48, 1))))
        assert [part.format.zeros for part in q.parts()] == ["between", "none", "between"]
        for part, rows in zip(q.parts(), (slice(0, 16), slice(16, 48), slice(48, 70)), strict=True):
            alone = gptq(weight[rows], hessian, part.format)
            assert torch.equal(part.values, alone.values)
            assert torch.equal(part.scales, alone.scales)

    def test_inputs_that_are_hardly_any(self):
        """Columns without inputs, fewer inputs than columns, and none at all."""
        weight, hessian = layer(16, 64)
        form = WeightFormat(4, 32, "none")
        one = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
        hessian[:, 40:] = 0
        hessian[40:] = 0
        for known in (hessian, one.T @ one, torch.zeros(64, 64)):
            q = gptq(weight, known, form)
            assert dequantize(q).isfinite().all()
            assert (dequantize(q) - weight).norm() < 0.5 * weight.norm()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_none(self, value):
        weight, hessian = layer(16, 64)
        hessian[3, 3] = value
        with pytest.raises(SingularHessian, match="not finite"):
            gptq(weight, hessian, WeightFormat(4, 32, "none"))
        weight[5, 7] = value
        with pytest.raises(ValueError, match="row 5 .*not finite"):
            gptq(weight, layer(16, 64)[1], WeightFormat(4, 32, "none"))


def test_inputs_that_are_made_again_are_the_same(tmp_path, monkeypatch):
    tiny.make_hf(tmp_path / "m", "smollm2")
    wanted = parse_recipe(json.dumps({"linear:a8wx": {"bitwidth": 4, "method": "gptq"}}))
    tokens = torch.randint(tiny.VOCAB, (12, 64), generator=torch.manual_seed(3))

    def packed(name: str) -> list[bytes]:
        model = quantized(tmp_path / "m", wanted, tokens, Work(tmp_path / name))
        return [value.numpy().tobytes() for value in model.state_dict().values()]

    held = packed("a")
    monkeypatch.setattr(layerwise, "MOST_HELD", 0)
    assert packed("b") == held


def test_a_target_by_outputs_is_that_by_inputs():
    generator = torch.manual_seed(0)
    weight = torch.randn(24, 64, generator=generator)
    x = torch.randn(500, 64, generator=generator)
    q = x + 0.1 * torch.randn(500, 64, generator=generator)
    hessian = q.T @ q / 500
    by_inputs, by_outputs = (
        calibrated.corrected(weight, Moments(hessian, y.T @ q / 500, of_outputs))
        for y, of_outputs in ((x, False), (x @ weight.T, True))
    )
    torch.testing.assert_close(by_outputs, by_inputs, rtol=1e-4, atol=1e-4)
    before, after = ((x @ weight.T - q @ w.T).square().mean() for w in (weight, by_inputs))
    assert after < 0.95 * before


class TestTorchao:
    """The recursion against torchao's `gptq_quantize`, which asserts CUDA: compiled without its
    asserts, the function runs on the CPU. Compared are the integers, column by column, for the same
    weights, second moment, damping and grid; ours in its order of columns and without refinement.
    Cholesky factors in float32 there and float64 here may turn a tie in a row of many."""

    @pytest.fixture
    def api(self, monkeypatch):
        from torchao.prototype.gptq import api

        source = inspect.getsource(api.gptq_quantize)
        code = compile(source, api.__file__, "exec", optimize=1)  # no asserts
        monkeypatch.setattr(api, "gptq_quantize", api.gptq_quantize)  # put back at the end
        exec(code, vars(api))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        return api

    def ours(self, weight, hessian, scales, zeros, form) -> Tensor:
        """u [N, K] on a given grid."""
        order, factor = ours._factor(ours._damped(hessian, 0.01, weight.shape[1]), act_order=False)
        grid = ours._Grid(scales.t().contiguous(), zeros.t().contiguous(), form)
        levels = ours._gptq(weight.t().contiguous(), order, factor, grid)
        return (levels + grid.over_columns(grid.zeros)).t()

    def alike(self, ours: Tensor, theirs: Tensor, nearest: Tensor) -> None:
        assert (ours != nearest).float().mean() > 0.05  # errors were moved on
        assert (ours == theirs).all(1).float().mean() > 0.95
        assert (ours == theirs).float().mean() > 0.99

    def test_a_scale_a_row_of_8_bits(self, api):
        """torchao's own grid: scales of the rows' largest magnitudes."""
        from torchao.quantization import Int8WeightOnlyConfig
        from torchao.quantization.granularity import PerRow

        weight, hessian = layer(64, 320)  # more columns than a block of either
        config = api.GPTQConfig(
            step="convert", base_config=Int8WeightOnlyConfig(granularity=PerRow(), version=2)
        )
        theirs = api.gptq_quantize(hessian.clone(), weight.clone(), config)
        scales = theirs.scale.float().view(64, 1)
        middle, form = torch.full((64, 1), 128.0), WeightFormat(8, 320, "none")
        u = self.ours(weight, hessian, scales, middle, form)
        nearest = torch.round(weight / scales).clamp(-128, 127)
        self.alike(u - 128, theirs.qdata.float(), nearest)

    def test_groups_of_4_bits_with_zeros(self, api, monkeypatch):
        """Our grid: its scales are handed in where torchao would ask its CUDA library for them, and
        the integers taken where it would pack them."""
        from torchao.quantization import Int4WeightOnlyConfig

        weight, hessian = layer(64, 320)
        form = WeightFormat(4, 32, "integer")
        scales, zeros = ours.search_scales(weight, hessian.diagonal(), form)
        groups = iter(range(10))

        def given(columns: Tensor, size: int):
            g = next(groups)
            scale = scales[None, :, g].clone()
            return None, scale, scale * (8 - zeros[None, :, g])  # the value of level 8

        packed = []
        monkeypatch.setattr(api, "int4_row_quantize_zp", given)
        monkeypatch.setattr(api, "pack_int4", lambda q: packed.append(q) or q)
        config = api.GPTQConfig(step="convert", base_config=Int4WeightOnlyConfig(group_size=32))
        api.gptq_quantize(hessian.clone(), weight.clone(), config)
        u = self.ours(weight, hessian, scales, zeros, form)
        step, zero = (part.repeat_interleave(32, 1) for part in (scales, zeros))
        nearest = torch.round(weight / step + zero).clamp(0, 15)
        self.alike(u, packed[0].float() + 8, nearest)
