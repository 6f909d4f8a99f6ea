"""The runner's evaluator of chat templates, in this process: the C++ code that will render an artifact's."""

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from exporter.util import runner_modules


class Evaluator(Protocol):
    """A tree that can be rendered."""

    def render(self, variables: str, date: str) -> str:
        """Return what the template writes of a JSON object of variables on a day, 2024-07-26.

        Raises ValueError where it refuses them or fails.
        """

    @property
    def met(self) -> bytes:
        """A byte for each node: 1 where a condition was true or a loop had a turn, 2 where false or none."""


def make_evaluator(nodes: Sequence[Sequence[object]]) -> Evaluator:
    """Load a tree into the runner's evaluator. Raises FileNotFoundError where it is not built, ValueError
    for a tree that it does not know."""
    return runner_modules.load_core().ChatTree(json.dumps(nodes))


def render(evaluator: Evaluator, variables: Mapping[str, object], date: str) -> str:
    """Render as an artifact's runner does: no tools and documents is none, and a prompt follows."""
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **variables}
    return evaluator.render(json.dumps(given), date)
