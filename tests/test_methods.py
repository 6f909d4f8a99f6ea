"""What changes and rounds weights for a model's quality: the same function, smaller errors."""

import inspect

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.checkpoint import open_checkpoint
from exporter.lowbit_search import SMALLEST
from exporter.lowbit_weights import (
    WeightFormat,
    dequantize,
    quantize_linear,
    rounded,
    weight_format,
)
from exporter.model import Transformer, load_model
from exporter.quality import gptq as ours
from exporter.quality import layerwise
from exporter.quality.gptq import GptqOptions, SingularHessian, gptq, output_error
from exporter.quality.layerwise import (
    LINEARS,
    RESIDUAL,
    Rope,
    Stream,
    float_weights,
    matrices,
    run_block,
)
from exporter.quality.sampling import BatchDecoder
from exporter.quality.transforms import (
    random_orthogonal,
    residual_rotation,
    retie,
    rotate_block,
    rotate_ends,
    smooth_block,
)
from exporter.schemes import SCALE_DTYPES, LinearScheme
from scripts import rotate_checkpoint
from scripts.bench.command_line import exit_status

CONTEXT, LENGTH = 48, 20  # longer than the sliding window of 8
# Float32 rounding after two layers is about 1e-6 of the logits' spread; a wrong fold is about 1.
ROUNDING = 1e-4
VARIATIONS = ("smollm2", "llama3.2", "llama3", "attention_bias", "mlp_bias", "head_dim",
              "mistral_window")  # fmt: skip


def make(folder, variation: str) -> Transformer:
    """A tiny model with norms far from 1, of both signs, and with every bias filled."""
    tiny.make_hf(folder, variation)
    state = load_file(folder / "model.safetensors")
    for i, name in enumerate(sorted(state)):
        if "norm" in name or name.endswith("bias"):
            generator = torch.Generator().manual_seed(i)
            state[name] = torch.randn(state[name].shape, generator=generator)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)


def logits(model: Transformer, tokens: Tensor) -> Tensor:
    """[T, V] of int64 [1, T]."""
    with torch.no_grad():
        rows = torch.arange(tokens.shape[1])
        return model(tokens, torch.tensor([0]), rows, model.new_caches())


def assert_same(actual: Tensor, expected: Tensor) -> None:
    spread = expected.std()
    assert spread > 0.1
    assert (actual - expected).abs().max() < ROUNDING * spread


def weights(model: Transformer) -> list[Tensor]:
    groups = [group for block in model.layers for group in matrices(block).values()]
    return [layer.weight.clone() for group in groups for layer in group]


def rotate(model: Transformer) -> None:
    rotation = residual_rotation(model.config)
    rotate_ends(model, rotation)
    for i, block in enumerate(model.layers):
        rotate_block(block, model.config, rotation, i)


def smooth(model: Transformer) -> None:
    """Factors between 1/8 and 8."""
    generator = torch.Generator().manual_seed(5)

    def factors(name: str, weight: Tensor) -> Tensor:
        assert name in LINEARS
        return 2 ** (6 * torch.rand(weight.shape[1], generator=generator) - 3)

    for block in model.layers:
        smooth_block(block, model.config, factors)


class TestTransforms:
    @pytest.mark.parametrize("variation", VARIATIONS)
    def test_the_function_stays(self, variation, tmp_path):
        model, tokens = make(tmp_path / "m", variation), tiny.prompt(LENGTH)
        expected, tied = logits(model, tokens), model.output.weight is model.tok_embeddings.weight
        for change in (smooth, rotate, smooth, rotate):  # in any order, and again
            before = weights(model)
            change(model)
            after = weights(model)
            assert all((a - b).abs().max() > 1e-2 for a, b in zip(after, before, strict=True))
            assert_same(logits(model, tokens), expected)
        assert (model.output.weight is model.tok_embeddings.weight) == tied
        assert (model.head is not None) == tied

    def test_a_rotated_copy_gets_one_table_again(self, tmp_path):
        make(tmp_path / "m", "smollm2")
        words = [str(tmp_path / name) for name in ("m", "copy")]
        assert exit_status(rotate_checkpoint.main, words) == 0
        model = load_model(open_checkpoint(words[1]), torch.float32, CONTEXT)
        assert model.output.weight is not model.tok_embeddings.weight
        expected = logits(model, tiny.prompt(LENGTH))
        assert retie(model) < 1e-5
        assert model.output.weight is model.tok_embeddings.weight and model.head is not None
        assert_same(logits(model, tiny.prompt(LENGTH)), expected)
        rotate(model)
        assert_same(logits(model, tiny.prompt(LENGTH)), expected)
        assert retie(model) is None  # it has one table

    def test_a_head_before_a_norm_that_is_not_one_is_rotated(self, tmp_path):
        model = make(tmp_path / "m", "llama3")
        matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) / 8
        model.output.weight = torch.nn.Parameter(model.tok_embeddings.weight @ matrix, False)
        expected = logits(model, tiny.prompt(LENGTH))
        assert retie(model) < 1e-5 and (model.head.weight - matrix).abs().max() < 1e-4
        rotate(model)
        assert_same(logits(model, tiny.prompt(LENGTH)), expected)

    def test_what_cannot_be_tied_is_refused(self, tmp_path):
        model = make(tmp_path / "m", "llama3")
        before = logits(model, tiny.prompt(LENGTH))
        with pytest.raises(ValueError, match='"retie": .* not its embedding times a matrix'):
            retie(model)
        assert torch.equal(logits(model, tiny.prompt(LENGTH)), before)

    def test_rotations_are_orthogonal_and_spread_outliers(self):
        turn = random_orthogonal(64, 3)
        assert (turn @ turn.T - torch.eye(64, dtype=torch.float64)).abs().max() < 1e-13
        assert torch.equal(turn, random_orthogonal(64, 3))
        outlier = torch.zeros(64, dtype=torch.float64)
        outlier[7] = 8.0
        assert (outlier @ turn).abs().max() < 4


class TestLayerwise:
    @pytest.mark.parametrize("variation", VARIATIONS)
    def test_streams_are_the_models_hidden_states(self, variation, tmp_path, monkeypatch):
        monkeypatch.setattr(layerwise, "QUERIES_AT_ONCE", 8)  # 8, 8 and 4
        model = make(tmp_path / "m", variation)
        tokens = tiny.prompt(9 * LENGTH).view(9, LENGTH)  # more windows than are done at once
        hidden: list[list[Tensor]] = [[] for _ in model.layers]
        for layer, found in zip(model.layers, hidden, strict=True):
            layer.register_forward_hook(lambda m, i, out, found=found: found.append(out))
        for window in tokens:
            logits(model, window[None])
        rope = Rope(model.config, LENGTH)
        with torch.no_grad():
            stream = Stream(F.embedding(tokens, model.tok_embeddings.weight), model.config, rope)
            for block, expected in zip(model.layers, hidden, strict=True):
                known = float_weights(block)
                assert_same(run_block(block, stream.x, known, model.config, rope), torch.stack(expected))
                stream.enter(block, known)
                for name in LINEARS:
                    stream.go_on(name)
                assert_same(stream.x, torch.stack(expected))

    @pytest.mark.parametrize("variation", ["smollm2", "attention_bias", "mlp_bias"])
    def test_inputs_are_held_as_far_as_there_is_room(self, variation, tmp_path, monkeypatch):
        """Five windows in parts of two: with room for none, three (one part) and all of them."""
        monkeypatch.setattr(layerwise, "_parts", lambda n: [slice(0, 2), slice(2, 4), slice(4, 5)])
        model = make(tmp_path / "m", variation)
        tokens, rope = tiny.prompt(5 * LENGTH).view(5, LENGTH), Rope(model.config, LENGTH)
        block, parts = model.layers[0], layerwise._parts(5)
        known = float_weights(block)
        with torch.no_grad():
            x = F.embedding(tokens, model.tok_embeddings.weight)
            for room, count in ((0, 0), (3, 1), (5, 3)):
                held, other = (Stream(x.clone(), model.config, rope) for _ in range(2))
                for stream in (held, other):
                    stream.enter(block, known)
                for name in LINEARS:
                    made = [other.input(name, part) for part in parts]
                    monkeypatch.setattr(layerwise, "MOST_HELD", room * made[-1].nbytes + 1)
                    held.hold(name)
                    first, again = ([held.input(name, part) for part in parts] for _ in range(2))
                    same = [a.data_ptr() == b.data_ptr() for a, b in zip(first, again, strict=True)]
                    assert sum(same) == (count if name in RESIDUAL else 0)
                    assert all(torch.equal(a, b) for a, b in zip(made + made, first + again, strict=True))
                    if name == "wo":  # past it without go_on: what is held of it is not that of `down`
                        for part in parts:
                            held.take(name, part)
                    else:
                        held.go_on(name)
                    weight, bias = known[name]
                    for part, y in zip(parts, made, strict=True):
                        before = other.x[part].clone()
                        taken, added = other.through(name, part)
                        assert torch.equal(taken, y)
                        if name in RESIDUAL:
                            assert torch.equal(added, F.linear(y, weight))
                            assert_same(other.x[part], before + F.linear(y, weight, bias))
                        else:
                            assert added is None
                    assert torch.equal(held.x, other.x)

    @pytest.mark.parametrize("variation", VARIATIONS)
    def test_batches_decode_as_the_model_does(self, variation, tmp_path):
        model = make(tmp_path / "m", variation)
        tokens = tiny.prompt(3 * LENGTH).view(3, LENGTH)
        expected = torch.stack([logits(model, window[None]) for window in tokens])
        rotate(model)  # with a head where it is tied
        decoder = BatchDecoder(model, 3, LENGTH)
        with torch.no_grad():
            steps = [decoder.step(tokens[:, t]) for t in range(LENGTH)]
        assert_same(torch.stack(steps, 1), expected)


def layer(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight [N, K] and the second moment [K, K] of inputs that are correlated."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.1
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    scale = torch.rand(columns, generator=generator) * 2 + 0.1
    inputs = (torch.randn(4 * columns, columns, generator=generator) @ mix) * scale
    inputs = inputs + torch.randn(4 * columns, 1, generator=generator)
    return weight, inputs.T @ inputs / len(inputs)


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

    def test_output_error_is_that_of_the_outputs(self):
        weight, _ = layer(8, 32)
        inputs = torch.randn(100, 32, generator=torch.Generator().manual_seed(2))
        other = weight + 0.01
        expected = (inputs @ (weight - other).T).square().sum() / (inputs @ weight.T).square().sum()
        found = output_error(weight, other, inputs.T @ inputs / 100)
        assert found == pytest.approx(float(expected), rel=1e-4)

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
