"""Compare a template's tree in the runner's evaluator with Jinja, on conversations made from the template.

Every text must be equal, and what Jinja refuses the evaluator must refuse. What no conversation reached is
named.
"""

import copy
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import commonprefix

from exporter.chat.evaluator import Evaluator, make_evaluator, render
from exporter.chat.scenarios import Scenarios, Variables, words_of
from exporter.chat.sites import Tree
from exporter.chat.template import Template, UndefinedName

CHANGED = 2000  # conversations beside those that are written
DAY = datetime.date(2024, 7, 26)  # that templates are told while they are compared
# What the evaluator says of the few values that Python's strings and numbers have and it lacks.
_LIMITS = ("for ASCII alone", "beyond 64 bits", "only {} is known", "steps or too much memory", "too deep")


class Differs(Exception):
    """The evaluator does something else than Jinja."""


@dataclass(frozen=True)
class Conformance:
    """How many conversations were compared, and what none of them reached."""

    compared: int
    unreached: tuple[str, ...]


def compare(template: Template, tree: Tree, n_changed: int = CHANGED) -> Conformance:
    """Compare `tree`, made for `template`, with it. `template` must be told the day DAY.

    Raises Differs for the first conversation on which they differ, UndefinedName where the template prints a
    name that nothing defines, FileNotFoundError where the runner's library is not built.
    """
    evaluator = make_evaluator(tree.nodes)
    scenarios = Scenarios(words_of(template.tree))
    compared, reached = 0, b""
    for variables in _all(scenarios, n_changed):
        _compare_one(template, evaluator, variables)
        compared += 1
        if evaluator.met != reached:
            reached = evaluator.met
            scenarios.keep(variables)
    unreached = [line for site in tree.sites for line in site.never(reached[site.node])]
    return Conformance(compared, tuple(dict.fromkeys(unreached)))


def _all(scenarios: Scenarios, n_changed: int) -> Iterator[Variables]:
    yield from scenarios.written()
    for _ in range(n_changed):
        yield scenarios.changed()


def _compare_one(template: Template, evaluator: Evaluator, variables: Mapping[str, object]) -> None:
    try:
        got = render(evaluator, variables, DAY.isoformat())
        refusal = None
    except ValueError as error:
        got, refusal = None, str(error)
    if refusal is not None and any(limit in refusal for limit in _LIMITS):
        return
    try:
        given = {"add_generation_prompt": True, **copy.deepcopy(variables)}
        want = template.render(given.pop("messages"), given.pop("add_generation_prompt"), **given)
        failure = None
    except UndefinedName:
        raise
    except Exception as error:  # a template can fail in any way, as any program can
        want, failure = None, f"{type(error).__name__}: {error}"
    if want == got:
        return
    where = f"in a conversation of {len(variables['messages'])} messages"
    if got is None:
        raise Differs(f"the runner cannot render it as Jinja does: {where}, {refusal}")
    if want is None:
        raise Differs(f"the runner renders what Jinja refuses: {where}, {failure}")
    at = len(commonprefix([want, got]))
    start = max(0, at - 12)
    raise Differs(
        f"the runner does not render it as Jinja does: {where}, it writes {got[start : at + 24]!r} "
        f"instead of {want[start : at + 24]!r}"
    )
