"""Turn weights into the integers, scales and zero points that `kernels/layout.h` packs."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from exporter.lowbit.grid import GridScales, grid_numbers, grid_scales
from exporter.lowbit.joined_rows import JoinedRows
from exporter.lowbit.search import Search, in_steps, row_steps, stored_scales
from exporter.recipe.methods import PLAIN, parse_method
from exporter.recipe.schemes import EmbeddingScheme, LinearScheme, Scheme

OUR_SCHEMES = ("linear:a8wx", "embedding:wx")  # whose numbers are found here, not torchao's
GROUP_UNIT = 16  # group sizes are multiples of it
# Small enough for a core's cache, large enough to hide the cost of calling an operator.
CHUNK_ELEMENTS = 1 << 17


@dataclass(frozen=True)
class WeightFormat:
    """The format of an integer weight: Format of kernels/layout.h."""

    bits: int
    group_size: int  # a multiple of 16; channelwise = the columns, rounded up
    zeros: str  # "none" | "integer" | "real" | "between", of 1 bit
    scale_dtype: str = "float16"  # or "int8", not with real zeros
    # (row, bits): rows from there on have `bits` instead: kernels/layout.h's stack.
    bits_from_row: tuple[tuple[int, int], ...] = ()

    def parts(self, rows: int) -> "list[tuple[slice, WeightFormat]]":
        """Split a weight of so many `rows` into the ranges with one number of bits, and give the format of
        each."""
        if self.bits_from_row and self.bits_from_row[-1][0] >= rows:
            raise ValueError(f"a weight of {rows} rows has no row {self.bits_from_row[-1][0]}")
        starts = [(0, self.bits), *self.bits_from_row, (rows, 0)]
        return [
            (slice(start, end), replace(self, bits=bits, zeros=self._zeros(bits), bits_from_row=()))
            for (start, bits), (end, _) in pairwise(starts)
        ]

    def _zeros(self, bits: int) -> str:
        return self.zeros if self.stores_zeros else unstored_zeros(bits)

    @property
    def stores_zeros(self) -> bool:
        return self.zeros in ("integer", "real")


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [N, K], of G = ceil(K / group_size) groups a row.

    With zeros none or integer it is (u - zero) scale, the zero of none being 2^(bits - 1); with
    real zeros (u - 2^(bits - 1)) scale + zero; with the zero between, (2 u - 1) scale.
    """

    format: WeightFormat
    values: Tensor  # u, uint8 [N, K]
    scales: Tensor  # float32 [N, G]
    zeros: Tensor | None  # float32 [N, G]

    def parts(self) -> "list[QuantizedWeight]":
        """Split the weight into the ranges of rows with one number of bits."""
        return [
            replace(self.rows(rows), format=form)
            for rows, form in self.format.parts(len(self.values))
        ]

    def rows(self, rows: slice | Tensor) -> "QuantizedWeight":
        """Return some of the rows, in the whole weight's format."""
        zeros = None if self.zeros is None else self.zeros[rows]
        return QuantizedWeight(self.format, self.values[rows], self.scales[rows], zeros)


def joined(form: WeightFormat, parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Join `parts` to the weight of format `form` that they are of."""
    zeros = torch.cat([part.zeros for part in parts]) if form.stores_zeros else None
    return QuantizedWeight(
        form, torch.cat([part.values for part in parts]),
        torch.cat([part.scales for part in parts]), zeros,
    )  # fmt: skip


# float32 rows [R, P] of whole groups → u of the same shape, scales and zeros [R, G].
Quantizer = Callable[[Tensor, WeightFormat], tuple[Tensor, Tensor, Tensor | None]]


def quantize_linear(weight: Tensor | JoinedRows, scheme: LinearScheme) -> QuantizedWeight:
    """Quantize `weight` [N, K] as `scheme` says; a last group that is not full is computed with zeros.

    `linear:a8wx` chooses the integers for scales that packing keeps as they are. The other schemes
    give torchao's integers and float32 scales of a float32 weight, which packing rounds to float16
    times one power of two: `rounded` gives those.
    Raises ValueError when values are not finite.
    """
    return _quantize(weight, scheme)


def quantize_embedding(weight: Tensor, scheme: EmbeddingScheme) -> QuantizedWeight:
    """Quantize a table as `scheme` says: `embedding:wx` is like `linear:a8wx`, `embedding` like torchao."""
    return _quantize(weight, scheme)


def weight_format(scheme: Scheme, columns: int) -> WeightFormat:
    """Return the format that `scheme` gives a weight of so many columns: no group is longer than a row."""
    row = -(-columns // GROUP_UNIT) * GROUP_UNIT
    group_size = min(scheme.groupsize or row, row)
    if scheme.key == "linear:int4":
        zeros = "real"
    elif scheme.has_weight_zeros:
        zeros = "integer"
    else:
        zeros = unstored_zeros(scheme.bitwidth) if scheme.key in OUR_SCHEMES else "none"
    return WeightFormat(
        scheme.bitwidth, group_size, zeros, scheme.scale_dtype, scheme.bitwidth_from_row
    )


def unstored_zeros(bits: int) -> str:
    """Return the zeros of a weight without stored ones: one bit has the levels -scale and +scale, since 0 in
    the place of one of them would leave nothing but the other."""
    return "between" if bits == 1 else "none"


def quantize_rows(table: Tensor, rows: Tensor, scheme: EmbeddingScheme) -> Tensor:
    """Quantize `rows`, int64 ascending, of the table [N, K], and return them as floats again."""
    _check_finite(table[rows], rows)
    parts = []
    for own, form in weight_format(scheme, table.shape[1]).parts(len(table)):
        inside = rows[(rows >= own.start) & (rows < own.stop)]
        if len(inside):
            plain = replace(scheme, bitwidth=form.bits, bitwidth_from_row=())
            parts.append(dequantize(quantize_embedding(table[inside], plain)))
    return torch.cat(parts)


def can_share(linear: LinearScheme, embedding: EmbeddingScheme, columns: int) -> bool:
    """Tell whether a tied output and its embedding have one table: same format, same numbers."""
    output = linear.for_layer("output")
    same_format = weight_format(output, columns) == weight_format(embedding, columns)
    return same_format and _algorithm(output) in ("gptq", _algorithm(embedding))


def dequantize(q: QuantizedWeight) -> Tensor:
    """Return a quantized weight as float32 [N, K]."""
    if q.format.bits_from_row:
        return torch.cat([dequantize(part) for part in q.parts()])
    size, columns = q.format.group_size, q.values.shape[1]
    middle = 2.0 ** (q.format.bits - 1)
    out = torch.empty(q.values.shape)
    for rows in _row_ranges(q.values.shape[0], columns):
        scales, zeros = (
            None if part is None else part[rows].repeat_interleave(size, 1)[:, :columns]
            for part in (q.scales, q.zeros)
        )
        u = q.values[rows].float()
        if q.format.zeros == "between":
            out[rows] = (2 * u - 1) * scales
            continue
        if q.format.zeros == "real":
            out[rows] = (u - middle) * scales + zeros
        else:
            out[rows] = (u - (middle if zeros is None else zeros)) * scales
    return out


def rounded(q: QuantizedWeight) -> QuantizedWeight:
    """Round scales and real zeros of `q` to what packing keeps: float16 times one power of two; of int8
    scales the rows' steps so.

    The power brings the largest magnitude to 2^13..2^14, as kernels/pack.cpp has it.
    """
    if q.format.bits_from_row:
        return joined(q.format, [rounded(part) for part in q.parts()])
    if q.format.scale_dtype == "int8":
        (steps,) = _halves(row_steps(q.scales))
        return replace(q, scales=in_steps(q.scales, steps))
    if q.format.zeros == "real":
        scales, zeros = _halves(q.scales, q.zeros)
        return replace(q, scales=scales, zeros=zeros)
    return replace(q, scales=_halves(q.scales)[0])


def _halves(*parts: Tensor) -> list[Tensor]:
    """Round each of `parts` to float16 times one power of two that all share."""
    largest = max(float(part.abs().amax()) for part in parts)
    exponent = torch.frexp(torch.tensor(largest)).exponent - 14 if largest else torch.tensor(0)
    exponent = exponent.clamp(-126, 127)
    return [torch.ldexp(torch.ldexp(part, -exponent).half().float(), exponent) for part in parts]


def _quantize(weight: Tensor | JoinedRows, scheme: Scheme, first_row: int = 0) -> QuantizedWeight:
    n, k = weight.shape
    form, algorithm = weight_format(scheme, k), _algorithm(scheme)
    if form.bits_from_row:
        return joined(form, [
            _quantize(
                weight[rows], replace(scheme, bitwidth=part.bits, bitwidth_from_row=()),
                first_row + rows.start,
            )
            for rows, part in form.parts(n)
        ])  # fmt: skip
    n_groups = -(-k // form.group_size)
    values = torch.empty(n, k, dtype=torch.uint8)
    scales = torch.empty(n, n_groups)
    zeros = torch.empty(n, n_groups) if form.stores_zeros else None
    waiting = iter(list(_row_ranges(n, k)))

    def work(quantizer: Quantizer) -> None:
        with torch.no_grad():
            for rows in waiting:
                part = weight[rows].float()
                if n_groups * form.group_size != k:
                    part = _whole_groups(part, form)
                u, scales[rows], zero = quantizer(part, form)
                values[rows] = u[:, :k]
                if zeros is not None:
                    zeros[rows] = zero

    with one_torch_thread() as workers, ThreadPoolExecutor(workers) as pool:
        scales_of_grid = _grid_scales(weight, form) if algorithm in PLAIN else None
        quantizers = [_quantizer(algorithm, form) for _ in range(workers)]
        if scales_of_grid is not None:
            quantizers = [partial(_kept, each, scales_of_grid) for each in quantizers]
        list(pool.map(work, quantizers))
    _check_finite(scales, range(first_row, first_row + n))
    result = QuantizedWeight(form, values, scales, zeros)
    return rounded(result) if algorithm in PLAIN else result


def _whole_groups(rows: Tensor, form: WeightFormat) -> Tensor:
    """Pad rows [R, K] to whole groups: with zeros, or, where no level is 0, with the last group's mean
    magnitude, which leaves that as it is."""
    last = rows.shape[1] % form.group_size
    padded = F.pad(rows, (0, form.group_size - last))
    if form.zeros == "between":
        padded[:, rows.shape[1] :] = rows[:, -last:].abs().mean(1, keepdim=True)
    return padded


# Whose fault it is nobody can tell from the values.
NOT_FINITE = (
    "the checkpoint stores NaN or infinity, or computes them; `python -m exporter eval MODEL --text FILE` "
    "shows whether the float model works; use another copy of it"
)


def _check_finite(values: Tensor, rows: Sequence[int]) -> None:
    """Raise ValueError that names the first of `rows` whose values [n, ...] are not finite."""
    broken = torch.nonzero(~values.isfinite().all(1))
    if len(broken):
        raise ValueError(
            f"the weight's row {int(rows[int(broken[0])])} has values that are not finite: {NOT_FINITE}"
        )


def _algorithm(scheme: Scheme) -> str:
    """Name what finds the numbers: `rtn`, `hqq` or `gptq` here, `affine` or `tinygemm` in torchao."""
    if scheme.key in OUR_SCHEMES:
        return parse_method(scheme.method).rounding
    return "tinygemm" if scheme.key == "linear:int4" else "affine"


def _quantizer(algorithm: str, form: WeightFormat) -> Quantizer:
    if algorithm in PLAIN:
        return partial(_searched, Search(form.bits, form.zeros, algorithm))
    # torchao looks for CUDA libraries that a CPU build lacks and says so on every import.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchao.quantization  # noqa: F401

    return _tinygemm if algorithm == "tinygemm" else _affine


def _searched(
    search: Search, rows: Tensor, form: WeightFormat
) -> tuple[Tensor, Tensor, Tensor | None]:
    shape = (rows.shape[0], -1)

    def stored(scale: Tensor) -> Tensor:
        return stored_scales(scale.view(shape), form.scale_dtype).view(-1)

    u, scale, zero = search(rows.view(-1, form.group_size), stored)
    return u.view(shape), scale.view(shape), zero.view(shape) if form.zeros == "integer" else None


def _grid_scales(weight: Tensor | JoinedRows, form: WeightFormat) -> GridScales | None:
    """Return the scales of a weight that was quantized before to integers and scales that `form` holds."""
    if form.scale_dtype != "float16" or form.zeros not in ("none", "integer"):
        return None
    return grid_scales(weight, form.bits, form.group_size, form.zeros == "integer")


def _kept(
    quantizer: Quantizer, scales: GridScales, rows: Tensor, form: WeightFormat
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize rows [R, P], of which groups that lie on a grid keep their integers and scales."""
    groups = rows.reshape(-1, form.group_size)
    found, *kept = grid_numbers(groups, form.bits, form.zeros == "integer", scales)
    u, scale, zero = torch.empty(groups.shape, dtype=torch.uint8), *torch.empty(2, len(groups))
    u[found], scale[found], zero[found] = kept
    if not found.all():
        other_u, other_scale, other_zero = quantizer(groups[~found], form)
        u[~found], scale[~found] = other_u, other_scale[:, 0]
        if other_zero is not None:
            zero[~found] = other_zero[:, 0]
    shape = (len(rows), -1)
    stores_zeros = form.zeros == "integer"
    return u.view(shape), scale.view(shape), zero.view(shape) if stores_zeros else None


def _affine(rows: Tensor, form: WeightFormat) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize rows by torchao's intx: symmetric without zero points, else asymmetric."""
    from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

    q = IntxUnpackedToInt8Tensor.from_hp(
        rows,
        (1, form.group_size),
        getattr(torch, f"int{form.bits}"),
        mapping_type=MappingType.SYMMETRIC if form.zeros == "none" else MappingType.ASYMMETRIC,
    )
    middle = 2 ** (form.bits - 1)
    u = (q.qdata.short() + middle).to(torch.uint8)
    return u, q.scale, None if form.zeros == "none" else q.zero_point.float() + middle


def _tinygemm(rows: Tensor, form: WeightFormat) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize rows by torchao's int4: the group's range over 0..15, its zero point a weight's value."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        _choose_qparams_affine_tinygemm,
        _quantize_affine_tinygemm,
    )

    block, limits = (1, form.group_size), (0, 15)
    scales, zeros = _choose_qparams_affine_tinygemm(
        rows, MappingType.ASYMMETRIC, block, torch.int32, *limits, eps=1e-6
    )
    u = _quantize_affine_tinygemm(rows, block, scales, zeros, torch.int32, *limits)
    shape = (rows.shape[0], -1)
    return u.to(torch.uint8), scales.reshape(shape), zeros.reshape(shape)


def _row_ranges(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


@contextmanager
def one_torch_thread() -> Iterator[int]:
    """Run torch's operators on their caller's thread alone; yields the number of threads that they had.

    Threads of ours then share rows out: torch's spin at the end of each of thousands of short
    operators, and with a busy neighbour on the same cores take a hundred times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
