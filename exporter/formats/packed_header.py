"""Read the headers of packed weights, which kernels/layout.h defines, without torch or the kernels."""

import struct
from dataclasses import dataclass, replace

WEIGHT_MAGIC, STACK_MAGIC = b"LOWBITW\0", b"LOWBITS\0"
LAYOUT_VERSION, STACK_VERSION = 4, 3
MOST_PARTS = 8  # of a stack
HEADER_BYTES = 64
ROW_BLOCK, COLUMN_BLOCK = 16, 32
WEIGHT_KINDS = ("integer", "float32", "float16", "bfloat16")
ZEROS = ("none", "integer", "real", "between")
SCALES = ("float16", "int8")
TWO_LEVELS = "levels -1 and +1"  # in a header's text, times the scale

_HEADER = struct.Struct("<8s5Ii3Q2I")
_BYTES_FIELD = 9
_STACK_HEADER = struct.Struct("<8s2I3Q24x")


@dataclass(frozen=True)
class PackedHeader:
    """What a packed weight is: `kind` of WEIGHT_KINDS, `zeros` of ZEROS, [rows, columns] weights; one of
    several where rows have several formats: `version` is its own, `at` where it begins, `first_row` its
    first.

    `group_size` is 0 for the float kinds. `panel_bytes` a panel of 16 rows; in an integer panel
    the scales [groups][16], `scale_dtype` of SCALES, lie at `scales_at`, the integers at `data_at`;
    with int8 scales the rows' steps, float16 [16], at its beginning.
    """

    kind: str
    bits: int
    group_size: int
    zeros: str
    scale_dtype: str
    scale_exponent: int
    rows: int
    columns: int
    bytes: int
    groups: int
    panel_bytes: int
    scales_at: int
    zeros_at: int
    data_at: int
    version: int
    at: int = 0
    first_row: int = 0

    def panels(self) -> int:
        return -(-self.rows // ROW_BLOCK)

    def text(self) -> str:
        """Describe the format: `4 bits, groups of 32, zeros` or `bfloat16`."""
        if self.kind != "integer":
            return self.kind
        groups = "a group a row" if self.groups == 1 else f"groups of {self.group_size}"
        zeros = {"none": "no zeros", "integer": "zeros", "real": "float zeros",
                 "between": TWO_LEVELS}[self.zeros]  # fmt: skip
        scales = ", int8 scales" if self.scale_dtype == "int8" else ""
        return f"{self.bits} {'bit' if self.bits == 1 else 'bits'}, {groups}, {zeros}{scales}"


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [rows, columns] in packed weights of consecutive rows: one, or a stack's. `version` is the
    first of the layout that reads it."""

    parts: tuple[PackedHeader, ...]

    @property
    def version(self) -> int:
        own = max(part.version for part in self.parts)
        return max(own, STACK_VERSION) if len(self.parts) > 1 else own

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def columns(self) -> int:
        return self.parts[0].columns

    @property
    def kind(self) -> str:
        return self.parts[0].kind

    @property
    def bits(self) -> float:
        """The mean bits of a weight, scales and zeros apart."""
        return sum(part.bits * part.rows for part in self.parts) / self.rows

    def text(self) -> str:
        """Describe the format as a header does, and what changes at which row: `6 bits, 5 bits from row 1024,
        groups of 32, no zeros`."""
        first, *others = self.parts
        width, comma, rest = first.text().partition(", ")
        changes = [
            f"{part.text().removesuffix(comma + rest)} from row {part.first_row}" for part in others
        ]
        return ", ".join([width, *changes]) + comma + rest


def is_packed(data: memoryview | bytes) -> bool:
    """Tell whether the bytes begin as packed weights do."""
    return bytes(data[: len(WEIGHT_MAGIC)]) in (WEIGHT_MAGIC, STACK_MAGIC)


def read_matrix(data: memoryview | bytes, name: str) -> PackedMatrix:
    """Read the headers of the packed matrix `name`, checked against themselves and the bytes' length.

    Raises ValueError that names the matrix and says what is wrong.
    """
    if bytes(data[: len(WEIGHT_MAGIC)]) != STACK_MAGIC or len(data) < HEADER_BYTES:
        return PackedMatrix((read_header(data, name),))
    _, version, count, rows, columns, size = _STACK_HEADER.unpack_from(data)
    if version != STACK_VERSION:
        raise ValueError(
            f"{name} is a stack of the packed layout {version}, this version reads {STACK_VERSION}"
        )
    parts, at, row = [], HEADER_BYTES, 0
    while at < len(data) and len(parts) < MOST_PARTS:
        own = data[at:]
        if len(own) < HEADER_BYTES:
            break
        part = read_header(own[: _HEADER.unpack_from(own)[_BYTES_FIELD]], name)
        parts.append(replace(part, at=at, first_row=row))
        at, row = at + part.bytes, row + part.rows
    if not (len(parts) == count > 1 and at == size == len(data) and row == rows
            and all(part.columns == columns for part in parts)):  # fmt: skip
        raise ValueError(f"{name} has a damaged header")
    return PackedMatrix(tuple(parts))


def read_header(data: memoryview | bytes, name: str) -> PackedHeader:
    """Read the header of one packed weight of the matrix `name`, checked against itself and the bytes'
    length.

    Raises ValueError that names the matrix and says what is wrong.
    """
    if len(data) < HEADER_BYTES or bytes(data[: len(WEIGHT_MAGIC)]) != WEIGHT_MAGIC:
        raise ValueError(f"{name} is not a packed weight")
    _, version, kind, bits, group_size, zeros, exponent, rows, columns, size, scales, _ = (
        _HEADER.unpack_from(data)
    )
    if not 1 <= version <= LAYOUT_VERSION:
        raise ValueError(
            f"{name} has the packed layout {version}, this version reads 1 to {LAYOUT_VERSION}"
        )
    integer = kind == 0
    good_bits = 1 <= bits <= 8 if integer else kind < len(WEIGHT_KINDS) and bits == (32, 16, 16)[kind - 1]
    good_group = group_size > 0 and group_size % 16 == 0 if integer else group_size == 0
    known = zeros < len(ZEROS) and scales < len(SCALES)
    good_zeros = known and (ZEROS[zeros] != "between" or integer and bits == 1)
    good_scales = known and (not scales or integer and ZEROS[zeros] != "real")
    if not (good_bits and good_group and good_zeros and good_scales and 0 < rows < 1 << 31
            and 0 < columns < 1 << 31
            and version == _version(ZEROS[zeros], SCALES[scales])):  # fmt: skip
        raise ValueError(f"{name} has a damaged header")
    header = laid_out(
        WEIGHT_KINDS[kind], bits, group_size, ZEROS[zeros], SCALES[scales], exponent, rows, columns
    )
    if not header.bytes == size == len(data):
        raise ValueError(f"{name} has {len(data)} bytes where its header means {header.bytes}")
    return header


def laid_out(
    kind: str, bits: int, group_size: int, zeros: str, scale_dtype: str, exponent: int, rows: int,
    columns: int,
) -> PackedHeader:  # fmt: skip
    """Compute where everything lies in a packed weight; the same arithmetic as `layout_of` in
    kernels/layout.cpp."""
    panels = -(-rows // ROW_BLOCK)
    if kind != "integer":
        groups, panel = 0, _aligned(columns * ROW_BLOCK * bits // 8)
        scales_at = zeros_at = data_at = 0
    else:
        groups = -(-columns // group_size)
        padded = -(-groups * group_size // COLUMN_BLOCK) * COLUMN_BLOCK
        scales_at, scale_bytes = (32, 1) if scale_dtype == "int8" else (64, 2)
        zeros_at = _aligned(scales_at + groups * ROW_BLOCK * scale_bytes)
        halves = zeros == "integer" and bits <= 4
        zero_rows = {"none": 0, "integer": -(-groups // 2) if halves else groups,
                     "real": 2 * groups, "between": 0}[zeros]  # fmt: skip
        data_at = zeros_at + _aligned(zero_rows * ROW_BLOCK)
        panel = data_at + padded // COLUMN_BLOCK * bits * 64
    return PackedHeader(
        kind, bits, group_size, zeros, scale_dtype, exponent, rows, columns,
        HEADER_BYTES + panels * panel,
        groups, panel, scales_at, zeros_at, data_at, _version(zeros, scale_dtype),
    )  # fmt: skip


def _version(zeros: str, scale_dtype: str) -> int:
    """Return the first version of the layout that reads such a weight; `layout_version` in
    kernels/layout.cpp."""
    if zeros == "between":
        return 4
    return 2 if scale_dtype == "int8" else 1


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
