"""A template's tree as a value: its nodes, and where the template decides."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Site:
    """Where a template decides: the number of the node whose outcomes are noted, and what it says."""

    node: int
    text: str
    line: int
    is_loop: bool = False

    def never(self, met: int) -> Iterator[str]:
        """Say which outcomes are not among `met` (1: true or some turns, 2: false or none)."""
        words = ("has a turn", "has no turn") if self.is_loop else ("is true", "is false")
        for bit, word in zip((1, 2), words, strict=True):
            if not met & bit:
                yield f"line {self.line}: `{self.text}` never {word}"


@dataclass(frozen=True)
class Tree:
    """The nodes, and where they decide."""

    nodes: list[list] = field(repr=False)
    sites: tuple[Site, ...]
