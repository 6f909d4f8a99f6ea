"""Quantized weights: torchao's numbers where it has them, bounds from the arithmetic elsewhere."""

import math
from dataclasses import replace

import pytest
import torch
from quantized_weights import HALF_ROUNDING, native, weights

from exporter.formats.packed_header import read_matrix
from exporter.lowbit.ops import load
from exporter.lowbit.pack import pack_integers
from exporter.lowbit.weights import (
    WeightFormat,
    can_share,
    dequantize,
    quantize_embedding,
    quantize_linear,
    quantize_rows,
    rounded,
    weight_format,
)
from exporter.recipe.schemes import SCALE_DTYPES, EmbeddingScheme, LinearScheme

BITS = range(1, 9)
ROUNDING = 2.0**-20  # of the float32 arithmetic that finds the integers
HQQ_POWER = 0.75


def torchao(bits: int, zeros: bool = False, groupsize: int = 32):
    return LinearScheme("linear:a8wxdq", groupsize, bits, zeros)


def per_weight(groups: torch.Tensor, q) -> torch.Tensor:
    """[N, G] → [N, K]."""
    return groups.repeat_interleave(q.format.group_size, 1)[:, : q.values.shape[1]]


def levels_of(q) -> torch.Tensor:
    if q.format.zeros == "between":
        return torch.full_like(q.scales, 0.5)
    middle = torch.full_like(q.scales, 2.0 ** (q.format.bits - 1))
    return middle if q.zeros is None else q.zeros


def group_errors(weight: torch.Tensor, q, power: float = 2) -> torch.Tensor:
    """What the search minimizes for each group of 32: errors by magnitude plus mean magnitude."""
    errors = (weight - dequantize(q)).double().abs() ** power
    return (errors.unflatten(1, (-1, 32)) * importance(weight)).sum(-1)


def importance(weight: torch.Tensor) -> torch.Tensor:
    magnitudes = weight.double().abs().unflatten(1, (-1, 32))
    return magnitudes + magnitudes.mean(-1, keepdim=True)


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("method", ["rtn", "hqq"])
@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
@pytest.mark.parametrize("bits", BITS)
class TestNative:
    def test_values_are_what_the_layout_takes(self, bits, scale_dtype, method, zeros):
        weight = weights()
        q = quantize_linear(weight, native(bits, zeros, method, 32, scale_dtype))
        kind = "integer" if zeros else "between" if bits == 1 else "none"
        assert q.format == WeightFormat(bits, 32, kind, scale_dtype)
        assert q.values.dtype == torch.uint8 and q.values.shape == weight.shape
        assert int(q.values.max()) < 2**bits and q.scales.dtype == torch.float32
        assert torch.equal(rounded(q).scales, q.scales)  # packing changes nothing
        assert (q.zeros is not None) == zeros
        if zeros:
            assert torch.equal(q.zeros, q.zeros.round())
            assert q.zeros.min() >= 0 and q.zeros.max() < 2**bits
        assert torch.equal(dequantize(q)[4], torch.zeros(256))

    def test_what_is_packed_is_what_was_chosen(self, bits, scale_dtype, method, zeros):
        load()
        q = quantize_linear(weights(20, 100), native(bits, zeros, method, 32, scale_dtype))
        assert torch.equal(torch.ops.lowbit.unpack(pack_integers(q)), dequantize(q))

    def test_each_weight_has_its_nearest_level(self, bits, scale_dtype, method, zeros):
        """Within half a step, or at the last level where the weight lies beyond it."""
        weight = weights()
        q = quantize_linear(weight, native(bits, zeros, method, 32, scale_dtype))
        step = per_weight(q.scales, q) * (2 if q.format.zeros == "between" else 1)
        position = (weight / step + per_weight(levels_of(q), q)).nan_to_num(0.0)
        nearest = position.clamp(0, 2**bits - 1)
        slack = ROUNDING * 2**bits
        near = (q.values - nearest).abs() <= 0.5 + slack
        # A group whose scale is no step of its row at all is 0, whatever its integers.
        near |= step == 0
        # A scale too small for float16 beside the tensor's largest was flushed after the choice.
        assert near[step.abs() > step.abs().max() * 2.0**-16].all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_zeros_cover_the_range(bits):
    """Rounding alone is within half a step of every weight; the search only lowers the squares."""
    weight = weights()
    q = quantize_linear(weight, native(bits, zeros=True))
    groups = weight.unflatten(1, (-1, 32))
    width = groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)
    # The rounded scale may leave the range's end uncovered by 2^-11 of it.
    step = width / (2**bits - 1)
    worst = step / 2 * (1 + HALF_ROUNDING) + width * HALF_ROUNDING
    bound = importance(weight).sum(-1) * worst.double() ** 2
    assert (group_errors(weight, q) <= bound * (1 + ROUNDING)).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_covers_the_extreme(bits):
    """With the extreme at the last level, the other side's last level is one step short of it."""
    weight = weights()
    q = quantize_linear(weight, native(bits))
    groups = weight.unflatten(1, (-1, 32))
    step = groups.abs().amax(-1) / 2 ** (bits - 1)
    clipped = groups.abs() > (step * (2 ** (bits - 1) - 0.5))[..., None]
    worst = step.double() * (1 + HALF_ROUNDING * 2**bits)
    errors = torch.where(clipped, worst[..., None], worst[..., None] / 2)
    bound = (importance(weight) * errors**2).sum(-1)
    assert (group_errors(weight, q) <= bound * (1 + ROUNDING)).all()


@pytest.mark.parametrize("bits", BITS)
def test_int8_scales_cost_little(bits):
    """A scale is off by half a step of its row at most. Weights find their nearest level again, but a
    group's extreme, which the last level may fall short of by 2^(bits - 1) such halves."""
    weight = weights()[8:]
    found = [quantize_linear(weight, native(bits, scale_dtype=kind)) for kind in SCALE_DTYPES]
    most = found[0].scales.abs().amax(1, keepdim=True) / 254
    assert ((found[1].scales - found[0].scales).abs() <= most * 1.01).all()
    steps = found[1].scales / (found[1].scales.abs().amax(1, keepdim=True) / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    squares = [float((weight - dequantize(q)).square().sum()) for q in found]
    extremes = float((2 ** (bits - 1) * most).square().sum()) * found[0].scales.shape[1]
    assert squares[1] < 1.02 * squares[0] + extremes


@pytest.mark.parametrize("scheme", [native, torchao], ids=["a8wx", "a8wxdq"])
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
def test_error_falls_with_bits(scheme, zeros):
    weight = weights()[8:]
    errors = [
        (weight - dequantize(quantize_linear(weight, scheme(bits, zeros)))).norm() for bits in BITS
    ]
    assert all(after < before for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 0.01 * weight.norm()


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_search_beats_torchao(bits, zeros):
    weight = weights()
    ours, theirs = (
        group_errors(weight, quantize_linear(weight, scheme))
        for scheme in (native(bits, zeros), torchao(bits, zeros))
    )
    assert ours.sum() < theirs.sum()


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("bits", BITS)
def test_hqq_is_not_worse_by_its_own_norm(bits, zeros):
    weight = weights()[8:]
    rtn, hqq = (
        group_errors(weight, quantize_linear(weight, native(bits, zeros, method)), HQQ_POWER)
        for method in ("rtn", "hqq")
    )
    assert (hqq <= rtn * (1 + 1e-5)).all()
    assert hqq.sum() < rtn.sum()


class TestTorchao:
    """Its integers, scales and zero points, to the last bit."""

    @pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
    @pytest.mark.parametrize("groupsize", [32, 16, 0])
    @pytest.mark.parametrize("bits", BITS)
    def test_a8wxdq(self, bits, groupsize, zeros):
        from torchao.quantization import MappingType

        mapping = MappingType.ASYMMETRIC if zeros else MappingType.SYMMETRIC
        self.expect(torchao(bits, zeros, groupsize), bits, groupsize, mapping)

    @pytest.mark.parametrize(
        "scheme",
        [
            LinearScheme("linear:a8w4dq", 64, 4),
            LinearScheme("linear:int8", 0, 8),
            LinearScheme("linear:int8", 32, 8),
            EmbeddingScheme("embedding", 32, 4),
            EmbeddingScheme("embedding", 0, 8),
        ],
    )
    def test_the_others(self, scheme):
        self.expect(scheme, scheme.bitwidth, scheme.groupsize)

    def expect(self, scheme, bits, groupsize, mapping=None):
        from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

        weight = weights()
        quantize = quantize_embedding if scheme.key == "embedding" else quantize_linear
        ours = quantize(weight, scheme)
        block, dtype = (1, groupsize or 256), getattr(torch, f"int{bits}")
        mapping = mapping or MappingType.SYMMETRIC
        theirs = IntxUnpackedToInt8Tensor.from_hp(weight, block, dtype, mapping_type=mapping)
        middle = 2 ** (bits - 1)
        assert torch.equal(ours.values.int() - middle, theirs.qdata.int())
        assert torch.equal(ours.scales, theirs.scale)
        assert torch.equal(levels_of(ours) - middle, theirs.zero_point.float())
        assert torch.equal(dequantize(ours), theirs.dequantize())

    def test_int4(self):
        """Against its own packed tensor's product with the unit matrix, that is its weights."""
        from torchao.prototype.quantization.int4 import Int4OpaqueTensor

        weight = weights(rows=64)
        q = quantize_linear(weight, LinearScheme("linear:int4", 32, 4))
        assert q.format == WeightFormat(4, 32, "real")
        theirs = Int4OpaqueTensor.from_hp(weight, [1, 32])
        scales_and_zeros = theirs.scale_and_zero  # [G, N, 2]
        assert torch.equal(q.scales, scales_and_zeros[..., 0].t())
        assert torch.equal(q.zeros, scales_and_zeros[..., 1].t())
        product = torch.nn.functional.linear(torch.eye(256), theirs).t()
        torch.testing.assert_close(dequantize(q), product, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "scheme", [torchao(4), torchao(4, True), LinearScheme("linear:int4", 32, 4)]
    )
    def test_packing_rounds_scales_to_float16(self, scheme):
        q = quantize_linear(weights(), scheme)
        kept = rounded(q)
        assert torch.equal(kept.values, q.values) and torch.equal(rounded(kept).scales, kept.scales)
        large = q.scales > q.scales.max() * 2.0**-20
        relative = ((kept.scales - q.scales) / q.scales)[large].abs()
        assert 0 < relative.max() <= HALF_ROUNDING


SCHEMES = [
    native(4), native(3, True), native(2, False, "hqq"), native(5, scale_dtype="int8"),
    torchao(5), torchao(3, True),
    LinearScheme("linear:int4", 32, 4), LinearScheme("linear:int8", 32, 8),
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.key} {scheme.bitwidth}")
@pytest.mark.parametrize("columns", [1, 31, 33, 100])
def test_a_last_group_that_is_not_full(scheme, columns):
    """Padded with zeros that leave no trace: the result is that of the padded weight, cut."""
    weight = weights(20, columns)
    q = quantize_linear(weight, scheme)
    size = q.format.group_size
    assert size == min(32, math.ceil(columns / 16) * 16)
    padded = torch.nn.functional.pad(weight, (0, -columns % size))
    whole = quantize_linear(padded, scheme)
    assert q.scales.shape == (20, math.ceil(columns / size))
    assert torch.equal(q.values, whole.values[:, :columns])
    assert torch.equal(q.scales, whole.scales)
    assert torch.equal(dequantize(q), dequantize(whole)[:, :columns])


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
def test_no_group_is_longer_than_a_row(zeros):
    """Channelwise, and a group size beyond the width: one group of the width, rounded up to 16."""
    weight = weights(20, 40)
    for groupsize in (0, 256):
        scheme = EmbeddingScheme("embedding:wx", groupsize, 4, zeros)
        assert weight_format(scheme, 40) == quantize_embedding(weight, scheme).format
        assert weight_format(scheme, 40).group_size == 48


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
class TestWidthsByRow:
    """Rows of each width are as if they were a weight of their own."""

    SCHEME = EmbeddingScheme("embedding:wx", 32, 8, bitwidth_from_row=((16, 5), (64, 2)))
    ROWS = {8: slice(0, 16), 5: slice(16, 64), 2: slice(64, 100)}

    def scheme(self, zeros, scale_dtype) -> EmbeddingScheme:
        return replace(self.SCHEME, has_weight_zeros=zeros, scale_dtype=scale_dtype)

    def alone(self, weight, bits, zeros, scale_dtype):
        own = EmbeddingScheme("embedding:wx", 32, bits, zeros, scale_dtype=scale_dtype)
        return quantize_embedding(weight[self.ROWS[bits]], own)

    def test_integers_and_floats(self, zeros, scale_dtype):
        weight = weights(100, 72)
        q = quantize_embedding(weight, self.scheme(zeros, scale_dtype))
        assert torch.equal(rounded(q).scales, q.scales)
        for part, bits in zip(q.parts(), self.ROWS, strict=True):
            own = self.alone(weight, bits, zeros, scale_dtype)
            assert part.format == own.format and torch.equal(part.values, own.values)
            assert torch.equal(part.scales, own.scales)
            assert torch.equal(dequantize(q)[self.ROWS[bits]], dequantize(own))

    def test_packed(self, zeros, scale_dtype):
        load()
        q = quantize_embedding(weights(100, 72), self.scheme(zeros, scale_dtype))
        packed = pack_integers(q)
        assert torch.equal(torch.ops.lowbit.unpack(packed), dequantize(q))
        matrix = read_matrix(packed.numpy().tobytes(), "table")
        assert (matrix.rows, matrix.columns, matrix.version) == (100, 72, 3)
        assert matrix.bits == (16 * 8 + 48 * 5 + 36 * 2) / 100
        assert matrix.text().startswith("8 bits, 5 bits from row 16, 2 bits from row 64, groups of 32")
        ids = torch.tensor([[0, 15, 16, 63, 64, 99]])
        assert torch.equal(torch.ops.lowbit.embedding(packed, ids, 72, 1.0), dequantize(q)[ids[0]])
        x, bias = torch.randn(3, 72, generator=torch.manual_seed(1)), torch.arange(100.0)
        products = torch.ops.lowbit.linear_a8wx(x, packed, bias, 100, False)
        apart = [
            torch.ops.lowbit.linear_a8wx(x, pack_integers(part), None, len(part.values), False)
            for part in q.parts()
        ]
        assert torch.equal(products, torch.cat(apart, 1) + bias)

    def test_some_rows(self, zeros, scale_dtype):
        table = torch.randn(100, 64, generator=torch.manual_seed(2))
        scheme = self.scheme(zeros, scale_dtype)
        whole = dequantize(quantize_embedding(table, scheme))
        for ids in (torch.tensor([3, 15, 16, 64, 99]), torch.tensor([70]), torch.arange(100)):
            assert torch.equal(quantize_rows(table, ids, scheme), whole[ids])

    def test_numbers_that_are_none(self, zeros, scale_dtype):
        table = weights(100, 64)
        table[70, 3] = math.nan
        with pytest.raises(ValueError, match="row 70 has values that are not finite"):
            quantize_embedding(table, self.scheme(zeros, scale_dtype))
        with pytest.raises(ValueError, match="row 70 has values that are not finite"):
            quantize_rows(table, torch.tensor([3, 16, 70, 80]), self.scheme(zeros, scale_dtype))


@pytest.mark.parametrize("method", ["rtn", "hqq"])
def test_threads_change_nothing(method, monkeypatch):
    """Rows go to threads in chunks, and torch is left with the threads that it had."""
    monkeypatch.setattr("exporter.lowbit.weights.CHUNK_ELEMENTS", 7 * 256)
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            results.append(quantize_linear(weights(), native(3, True, method)))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert torch.equal(results[0].values, results[1].values)
    assert torch.equal(results[0].scales, results[1].scales)
    assert torch.equal(results[0].zeros, results[1].zeros)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits(dtype):
    weight = torch.nn.Parameter(weights(9, 64)[8:].to(dtype))
    q = quantize_linear(weight, native(4))
    assert torch.equal(q.values, quantize_linear(weight.float(), native(4)).values)
    assert not dequantize(q).requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.key} {scheme.bitwidth}")
def test_values_that_are_not_finite_are_refused(scheme, value):
    weight = weights()
    weight[17, 200] = value
    with pytest.raises(ValueError, match="row 17"):
        quantize_linear(weight, scheme)


def test_one_table_only_where_it_is_the_same():
    linear, table = native(4), EmbeddingScheme("embedding:wx", 32, 4)
    assert can_share(linear, table, 576)
    assert torch.equal(
        quantize_linear(weights(), linear).values, quantize_embedding(weights(), table).values
    )
    assert can_share(torchao(4), EmbeddingScheme("embedding", 32, 4), 576)
    assert not can_share(linear, EmbeddingScheme("embedding", 32, 4), 576)  # torchao's numbers
    assert not can_share(linear, EmbeddingScheme("embedding:wx", 64, 4), 576)
    assert not can_share(linear, EmbeddingScheme("embedding:wx", 32, 4, True), 576)
    assert not can_share(linear, EmbeddingScheme("embedding:wx", 32, 4, False, "hqq"), 576)
    assert not can_share(linear, EmbeddingScheme("embedding:wx", 32, 5), 576)
    int8 = EmbeddingScheme("embedding:wx", 32, 4, scale_dtype="int8")
    assert not can_share(linear, int8, 576)
    assert can_share(native(4, scale_dtype="int8"), int8, 576)
