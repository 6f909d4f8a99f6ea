"""List the formats and roundings that a fit may give a matrix, with what each costs and loses.

KLs are measured at ANCHOR alone; at the other formats they go with the squared errors of outputs, which
`Shape` has. Rows of a table are used unequally, so a table's choices have widths by ranges of rows.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from exporter.formats.packed_header import HEADER_BYTES, MOST_PARTS, laid_out
from exporter.recipe.methods import parse_method
from exporter.recipe.schemes import LinearScheme
from exporter.util.files import written_whole

BITS, GROUP_SIZES = (2, 3, 4, 5, 6, 7, 8), (32, 64)
# (bits, group size), without zero points, with the scales of `scale_dtype`: small groups follow the
# weights better for the same room.
FORMATS = tuple((bits, size) for bits in BITS for size in GROUP_SIZES)
ANCHOR = (4, 64)
# Of each rounding, each format's squared error of the outputs, of that at ANCHOR.
Shape = dict[str, dict[tuple[int, int], float]]
KLs = dict[str, float]  # nats at ANCHOR, by roundings


@dataclass(frozen=True)
class Choice:
    """A format of one matrix and what rounds it: its packed size, and the KL, in nats, that it adds.
    `from_row` as `bitwidth_from_row` has it."""

    bits: int
    group_size: int
    rounding: str
    bytes: int
    kl: float
    from_row: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Unit:
    """A matrix, or a table, and what a fit may choose for it."""

    name: str
    choices: tuple[Choice, ...]


def matrix_unit(name: str, rows: int, columns: int, kls: KLs, shape: Shape) -> Unit:
    """List the choices of a matrix that has one format for all rows."""
    return Unit(
        name,
        tuple(
            Choice(bits, size, rounding, packed_bytes(rows, columns, bits, size), kl * factor)
            for rounding, kl in kls.items()
            for (bits, size), factor in shape[rounding].items()
        ),
    )


def table_unit(
    name: str, blocks: Sequence[slice], columns: int, kls: Sequence[KLs], shape: Shape
) -> Unit:
    """List the choices of a table whose `blocks`, its rows in order, have `kls`: widths by ranges of rows."""
    rows = blocks[-1].stop
    choices = []
    for rounding in kls[0]:
        by_block = [of_block[rounding] for of_block in kls]
        ranges = alike([kl / (block.stop - block.start)
                        for kl, block in zip(by_block, blocks, strict=True)], MOST_PARTS)  # fmt: skip
        starts = [blocks[r.start].start for r in ranges]
        counts = [b - a for a, b in pairwise([*starts, rows])]
        by_range = [sum(by_block[r]) for r in ranges]
        for size in GROUP_SIZES:
            factors = {bits: shape[rounding][bits, size] for bits in BITS}
            for widths in _widths(by_range, counts, factors):
                first, from_row = _merged(starts, widths)
                choices.append(Choice(
                    first, size, rounding, packed_bytes(rows, columns, first, size, from_row),
                    sum(kl * factors[w] for kl, w in zip(by_range, widths, strict=True)), from_row,
                ))  # fmt: skip
    return Unit(name, tuple(choices))


def alike(values: Sequence[float], most: int) -> list[slice]:
    """Split a sequence into at most `most` ranges, whose logarithms have the least squared distance from
    their range's mean: bits go with the logarithm of what a row loses. By dynamic programming (Fisher,
    1958)."""
    floor = max(max(values) * 1e-6, 1e-30)
    logs = [math.log(max(value, floor)) for value in values]
    sums = list(accumulate(logs, initial=0.0))
    squares = list(accumulate((x * x for x in logs), initial=0.0))

    def distance(a: int, b: int) -> float:
        return squares[b] - squares[a] - (sums[b] - sums[a]) ** 2 / (b - a)

    n = len(values)
    best = [(distance(0, b), [slice(0, b)]) for b in range(1, n + 1)]  # of the first b, with one range
    for parts in range(2, min(most, n) + 1):
        best = best[: parts - 1] + [
            min(
                ((best[a - 1][0] + distance(a, b), [*best[a - 1][1], slice(a, b)])
                 for a in range(parts - 1, b)),
                key=lambda found: found[0],
            )
            for b in range(parts, n + 1)
        ]  # fmt: skip
    return best[-1][1]


def _widths(
    kls: Sequence[float], rows: Sequence[int], factors: dict[int, float]
) -> list[list[int]]:
    """List the widths of all ranges of rows, from the smallest to the largest table: each the one before with
    one range, the one that saves most a row, a bit wider. And each width everywhere: 8 bits, whose scales are
    others, no other way."""
    mixed = [bits for bits in BITS if scale_dtype(bits) == scale_dtype(BITS[0])]
    gains = [factors[a] - factors[b] for a, b in pairwise(mixed)]
    at = [0] * len(kls)
    found = [[mixed[0]] * len(kls)]
    while any(i < len(gains) for i in at):
        j = max((j for j in range(len(at)) if at[j] < len(gains)),
                key=lambda j: (kls[j] * gains[at[j]] / rows[j], -j))  # fmt: skip
        at[j] += 1
        found.append([mixed[i] for i in at])
    return found + [[bits] * len(kls) for bits in BITS]


def _merged(
    starts: Sequence[int], widths: Sequence[int]
) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the first rows' width, and where others begin."""
    changes = [
        (start, width)
        for start, (before, width) in zip(starts[1:], pairwise(widths), strict=True)
        if width != before
    ]
    return widths[0], tuple(changes)


def scheme_of(base: LinearScheme, choice: Choice) -> LinearScheme:
    """Return the scheme of `choice` with the transforms of `base`."""
    method = parse_method(base.method).rounded_by(choice.rounding)
    return replace(
        base, bitwidth=choice.bits, groupsize=choice.group_size, has_weight_zeros=False,
        scale_dtype=scale_dtype(choice.bits), bitwidth_from_row=choice.from_row, method=method,
        layers=(),
    )  # fmt: skip


def scale_dtype(bits: int) -> str:
    """Choose how scales are stored: int8 costs half; at 8 bits a scale must be more exact than a 127th of its
    row's largest."""
    return "int8" if bits < 8 else "float16"


def packed_bytes(
    rows: int, columns: int, bits: int, group_size: int, from_row: tuple[tuple[int, int], ...] = ()
) -> int:
    """Return the packed bytes of a matrix as `scheme_of` has it."""
    starts = [(0, bits), *from_row]
    ends = [row for row, _ in from_row] + [rows]
    return (HEADER_BYTES if from_row else 0) + sum(
        laid_out("integer", width, group_size, "none", scale_dtype(width), 0, end - start, columns).bytes
        for (start, width), end in zip(starts, ends, strict=True)
    )


def smallest_bytes(shapes: Iterable[tuple[int, int]]) -> int:
    """Return the packed bytes of matrices of so many rows and columns, each in the smallest of FORMATS."""
    return sum(
        min(packed_bytes(rows, columns, bits, size) for bits, size in FORMATS) for rows, columns in shapes
    )


def read_units(path: Path) -> list[Unit] | None:
    """Read what `write_units` wrote; None where there is nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [
            Unit(name, tuple(Choice(*c, tuple((r, w) for r, w in rows)) for *c, rows in choices))
            for name, choices in found.items()
        ]
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_units(path: Path, units: list[Unit]) -> None:
    """Write units as JSON, whole or not at all."""
    content = {unit.name: [astuple(choice) for choice in unit.choices] for unit in units}
    with written_whole(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")
