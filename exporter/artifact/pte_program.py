"""Read a `.pte`'s flatbuffer in place: only what is asked for is looked at.

`executorch.exir`'s own reader makes Python objects of every table and copies the constants, and
importing it takes seconds. Source of the slots: ExecuTorch 1.5.1, `schema/program.fbs`; of the
extended header: `schema/extended_header.cpp`.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flatbuffers import encode, packer
from flatbuffers import number_types as numbers
from flatbuffers.table import Table

from exporter.artifact.contents import Damaged

IDENTIFIER = b"ET12"  # at byte 4
_EXTENDED = struct.Struct("<4sIQQ")  # at byte 8: magic, length, program size, segments' start

# The numbers of schema/program.fbs, of those that are read.
_BOOL, _TENSOR, _STRING = 3, 5, 6
_KERNEL_CALL, _DELEGATE_CALL = 1, 2
_SCALAR_TYPES = {
    0: ("uint8", 1), 1: ("int8", 1), 2: ("int16", 2), 3: ("int32", 4), 4: ("int64", 8),
    5: ("float16", 2), 6: ("float32", 4), 7: ("float64", 8), 11: ("bool", 1), 15: ("bfloat16", 2),
}  # fmt: skip


@dataclass(frozen=True)
class PlanTensor:
    """A tensor of a plan. `constant` is its index among the constants, 0 for none; `name` that of a constant
    in the program, "" for none."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    constant: int
    name: str


@dataclass(frozen=True)
class Instruction:
    """An instruction: an operator's name, or a delegate's with `delegate`; indices of values."""

    name: str
    delegate: bool
    arguments: tuple[int, ...]


def _damage_named(read: Callable) -> Callable:
    """Wrap `read` so that it raises Damaged where it raises what flatbuffers and struct do for bytes that are
    no table."""

    @functools.wraps(read)
    def named(*arguments):
        try:
            return read(*arguments)
        except (struct.error, TypeError, UnicodeDecodeError) as error:
            raise Damaged(f"its tables cannot be read ({error})") from error

    return named


class _Node:
    """A table by its fields' numbers; absent fields have their defaults.

    Reading it raises Damaged for bytes that are no table.
    """

    @_damage_named
    def __init__(self, buffer: memoryview, position: int):
        self._table = Table(buffer, position)

    def _offset(self, field: int) -> int:
        return self._table.Offset(4 + 2 * field)

    @_damage_named
    def number(self, field: int, kind, default: int = 0) -> int:
        offset = self._offset(field)
        return self._table.Get(kind, offset + self._table.Pos) if offset else default

    @_damage_named
    def text(self, field: int) -> str:
        offset = self._offset(field)
        return self._table.String(offset + self._table.Pos).decode() if offset else ""

    @_damage_named
    def node(self, field: int) -> "_Node | None":
        offset = self._offset(field)
        if not offset:
            return None
        return _Node(self._table.Bytes, self._table.Indirect(offset + self._table.Pos))

    @_damage_named
    def count(self, field: int) -> int:
        offset = self._offset(field)
        return self._table.VectorLen(offset) if offset else 0

    @_damage_named
    def numbers(self, field: int, letter: str) -> tuple[int, ...]:
        """Return a vector of scalars, whose type `letter` is struct's."""
        count, offset = self.count(field), self._offset(field)
        if not count:
            return ()
        start = self._table.Vector(offset)
        return struct.unpack_from(f"<{count}{letter}", self._table.Bytes, start)

    def nodes(self, field: int) -> Iterator["_Node"]:
        for i in range(self.count(field)):
            yield self.item(field, i)

    @_damage_named
    def item(self, field: int, index: int) -> "_Node":
        if not 0 <= index < self.count(field):
            raise Damaged(f"a table has {self.count(field)} entries where number {index} is wanted")
        start = self._table.Vector(self._offset(field)) + 4 * index
        return _Node(self._table.Bytes, self._table.Indirect(start))


class Plan:
    """One method of the program."""

    def __init__(self, node: _Node):
        self._node = node

    @property
    def name(self) -> str:
        return self._node.text(0)

    def outputs(self) -> tuple[int, ...]:
        return self._node.numbers(4, "i")

    def planned_bytes(self) -> tuple[int, ...]:
        """Return the sizes of the planned buffers; the first is reserved."""
        return self._node.numbers(8, "q")

    def value_count(self) -> int:
        return self._node.count(2)

    def constant_string(self) -> str | None:
        """Return the string that the method returns; None for one that returns something else."""
        kind, value = self._value(self._only_output())
        return value.text(0) if kind == _STRING else None

    def constant_tensor(self) -> PlanTensor | None:
        return self.tensor(self._only_output())

    def tensor(self, index: int) -> PlanTensor | None:
        """Return the value `index` as a tensor; None where it is something else."""
        kind, value = self._value(index)
        if kind != _TENSOR:
            return None
        dtype, width = _SCALAR_TYPES.get(value.number(0, numbers.Int8Flags), ("unknown", 0))
        shape = value.numbers(2, "i")
        size = width
        for length in shape:
            size *= length
        constant = value.number(5, numbers.Uint32Flags)
        more = value.node(9)
        name = "" if more is None else more.text(1)
        return PlanTensor(dtype, shape, size, constant, name)

    def boolean(self, index: int) -> bool:
        kind, value = self._value(index)
        return kind == _BOOL and value.number(0, numbers.BoolFlags, False)

    def calls(self) -> Iterator[Instruction]:
        """Yield the instructions that call an operator or a delegate, in order."""
        operators = [node.text(0) + _overload(node.text(1)) for node in self._node.nodes(6)]
        delegates = [node.text(0) for node in self._node.nodes(7)]
        for chain in self._node.nodes(5):
            for instruction in chain.nodes(2):
                kind = instruction.number(0, numbers.Uint8Flags)
                call = instruction.node(1)
                if call is None or kind not in (_KERNEL_CALL, _DELEGATE_CALL):
                    continue
                names = operators if kind == _KERNEL_CALL else delegates
                index = call.number(0, numbers.Int32Flags)
                if not 0 <= index < len(names):
                    raise Damaged(f"number {index} of {len(names)} operators is called")
                yield Instruction(names[index], kind == _DELEGATE_CALL, call.numbers(1, "i"))

    def _only_output(self) -> int:
        outputs = self.outputs()
        return outputs[0] if len(outputs) == 1 else -1

    def _value(self, index: int) -> tuple[int, _Node]:
        value = self._node.item(2, index)
        return value.number(0, numbers.Uint8Flags), value.node(1)


class PteProgram:
    """The program in the bytes of a `.pte`. Raises Damaged where they are damaged."""

    def __init__(self, data: memoryview):
        self.size = self.segments_at = 0
        magic, _, size, base = _EXTENDED.unpack_from(data, 8)
        if magic == b"eh00":
            self.size, self.segments_at = size, base
        else:
            self.size = len(data)
        if self.size > len(data) or self.segments_at > len(data):
            raise Damaged("the program is cut short")
        root = encode.Get(packer.uoffset, data, 0)
        self._node = _Node(data[: self.size], root)

    def plans(self) -> Iterator[Plan]:
        return map(Plan, self._node.nodes(1))

    def segments(self) -> list[tuple[int, int]]:
        """Return each segment's offset in the file and its size."""
        kind = numbers.Uint64Flags
        return [(self.segments_at + node.number(0, kind), node.number(1, kind))
                for node in self._node.nodes(4)]  # fmt: skip

    def constant_offsets(self) -> tuple[int, tuple[int, ...]]:
        """Return the segment of the constants, -1 for none, and each constant's offset in it."""
        node = self._node.node(5)
        if node is None:
            return -1, ()
        return node.number(0, numbers.Uint32Flags), node.numbers(1, "Q")


def _overload(name: str) -> str:
    return f".{name}" if name else ""
