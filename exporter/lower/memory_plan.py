"""Plan where a program's tensors lie in memory: the largest first, each in the lowest gap that is free while
it lives ("greedy by size": Pisarchyk and Lee, arXiv 2001.03288).

ExecuTorch 1.5.1's own algorithm places a tensor above all that live with it and never uses the room below
again: each layer's sum had a place of its own, 2 MiB for each of 32 of the 1B shape.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Need:
    """Bytes that are needed from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: "Need") -> bool:
        return self.first <= other.last and other.first <= self.last


def lowest_offsets(needs: Mapping[T, Need]) -> dict[T, int]:
    """An offset for each, so that no two that live at once overlap."""
    placed: list[tuple[int, Need]] = []
    offsets: dict[T, int] = {}
    for key, need in sorted(needs.items(), key=lambda item: -item[1].size):
        offsets[key] = _lowest_gap(need, (place for place in placed if place[1].meets(need)))
        placed.append((offsets[key], need))
    return offsets


def _lowest_gap(need: Need, taken: Iterable[tuple[int, Need]]) -> int:
    offset = 0
    for start, other in sorted(taken, key=lambda place: place[0]):
        if offset + need.size <= start:
            break
        offset = max(offset, start + other.size)
    return offset


def plan_memory(alignment, specs, graph_module, graph_signature, extra_padding=0):
    """Return a `MemoryAlgoResult`, as an algorithm of ExecuTorch's does. Tensors that share storage, or lie
    in memories of several kinds, are left to its own `greedy`."""
    from executorch.exir.memory_planning import MemoryAlgoResult, SpecAllocResult, greedy

    if any(spec.storage_base is not None or spec.mem_id not in (None, 1) for spec in specs):
        return greedy(alignment, specs, graph_module, graph_signature, extra_padding)
    needs = {}
    for spec in specs:
        spec.realign(alignment)
        needs[spec] = Need(spec.allocated_memory, *spec.lifetime)
    offsets = lowest_offsets(needs)
    total = max((offset + needs[spec].size for spec, offset in offsets.items()), default=0)
    return MemoryAlgoResult(
        {spec: SpecAllocResult(1, 0, offset) for spec, offset in offsets.items()}, [0, total + extra_padding]
    )
