"""Draw the rooms of `exporter/` from their imports, as the Mermaid graph of docs/architecture.md.

Usage: python scripts/draw_rooms.py [--write]

An arrow goes from a room to one that it imports from; those that follow from other arrows are left out.
`--write` replaces the picture in docs/architecture.md.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "```mermaid\n", "```\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace the picture in docs/architecture.md")
    if not parser.parse_args().write:
        sys.stdout.write(picture())
        return 0
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + picture() + rest.partition(END)[2])
    return 0


def picture() -> str:
    """The graph as a fenced block of Markdown."""
    edges = reduced(imports()).items()
    lines = [f"  {room} --> {below}" for room, belows in edges for below in sorted(belows)]
    return BEGIN + "\n".join(["graph TD", *lines]) + "\n" + END


def imports() -> dict[str, set[str]]:
    """Which rooms each room imports from, itself left out."""
    if str(ROOT) not in sys.path:  # where grimp looks for the package
        sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph("exporter", cache_dir=None)
    rooms = sorted(graph.find_children("exporter") - {"exporter.__main__"})
    found: dict[str, set[str]] = {room.removeprefix("exporter."): set() for room in rooms}
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            room, other = (name.split(".")[1:2] for name in (module, target))
            if room and other and room != other and room[0] in found:
                found[room[0]].add(other[0])
    return found


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """`edges`, of a graph without circles, without those that a longer way makes."""

    def reach(room: str) -> set[str]:
        return edges[room].union(*(reach(other) for other in edges[room]))

    return {
        room: {other for other in others if not any(other in reach(way) for way in others - {other})}
        for room, others in edges.items()
    }


if __name__ == "__main__":
    sys.exit(main())
