"""Which choices of a chat template the conversations of a check made, and which they never made.

Every condition that depends on what messages say (`chat_kinds`), or on a greater number of them than the
check has, is wrapped in a call that notes its outcome. One that came out one way only in all
conversations has a side that nobody has compared.
"""

from collections.abc import Iterator

from jinja2 import nodes

from exporter.chat_check import MOST_TURNS
from exporter.chat_kinds import Kinds

_NOTE = "_note_outcome"
_OPERATORS = {
    "eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "in": "in", "notin": "not in",
}  # fmt: skip


class Branches:
    """The conditions of one template by number, and the outcomes of those that were met."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._met: set[tuple[int, bool]] = set()
        self.globals = {_NOTE: self._note}

    def instrument(self, tree: nodes.Template) -> nodes.Template:
        """Return `tree` with its conditions on contents wrapped, in place."""
        kinds = Kinds(tree)
        asked = {id(node): node for node in _conditions(tree)
                 if kinds.depends(node) or _counts_far(node)}  # fmt: skip
        self._wrap(tree, asked)
        return tree.set_environment(tree.environment)

    def take(self) -> frozenset[tuple[int, bool]]:
        """The conditions that were met since the last call, each with an outcome."""
        met = frozenset(self._met)
        self._met.clear()
        return met

    def _note(self, number: int, value: object) -> object:
        self._met.add((number, bool(value)))
        return value

    def _wrap(self, node: nodes.Node, asked: dict[int, nodes.Node]) -> None:
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [self._wrapped(item, asked) for item in value])
            else:
                setattr(node, name, self._wrapped(value, asked))

    def _wrapped(self, value: object, asked: dict[int, nodes.Node]) -> object:
        if not isinstance(value, nodes.Node):
            return value
        text = expression_text(value) if id(value) in asked else None
        self._wrap(value, asked)
        if text is None:
            return value
        self.texts.append(text)
        number = nodes.Const(len(self.texts) - 1)
        call = nodes.Call(nodes.Name(_NOTE, "load"), [number, value], [], None, None)
        return call.set_lineno(value.lineno)


def _conditions(tree: nodes.Template) -> Iterator[nodes.Node]:
    for node in tree.find_all((nodes.If, nodes.CondExpr, nodes.For)):
        if node.test is not None:
            yield node.test
    for node in tree.find_all((nodes.And, nodes.Or)):
        yield from (node.left, node.right)
    yield from (node.node for node in tree.find_all(nodes.Not))
    yield from tree.find_all((nodes.Compare, nodes.Test))


def _counts_far(node: nodes.Node) -> bool:
    """Whether it is a comparison with a number that the turns of the check do not reach."""
    numbers = (const.value for const in node.find_all(nodes.Const) if isinstance(const.value, int))
    return isinstance(node, nodes.Compare | nodes.Test) and any(n >= MOST_TURNS for n in numbers)


def expression_text(node: nodes.Node | None) -> str:
    """Write an expression as a template does, near enough to be found in it."""
    text = expression_text
    match node:
        case None:
            return ""
        case nodes.Const():
            return repr(node.value) if isinstance(node.value, str) else str(node.value).lower()
        case nodes.Name():
            return node.name
        case nodes.NSRef():
            return f"{node.name}.{node.attr}"
        case nodes.Getattr():
            return f"{text(node.node)}.{node.attr}"
        case nodes.Getitem():
            return f"{text(node.node)}[{text(node.arg)}]"
        case nodes.Slice():
            return ":".join(text(part) for part in (node.start, node.stop))
        case nodes.Compare():
            return text(node.expr) + "".join(f" {_OPERATORS[op.op]} {text(op.expr)}" for op in node.ops)
        case nodes.Not():
            return f"not {text(node.node)}"
        case nodes.And() | nodes.Or() | nodes.Add() | nodes.Sub():
            return f"{text(node.left)} {node.operator} {text(node.right)}"
        case nodes.Concat():
            return " ~ ".join(map(text, node.nodes))
        case nodes.Test():
            return f"{text(node.node)} is {node.name}{_arguments(node)}"
        case nodes.Filter():
            return f"{text(node.node)} | {node.name}{_arguments(node)}"
        case nodes.Call():
            return text(node.node) + (_arguments(node) or "()")
        case nodes.List() | nodes.Tuple():
            return f"[{', '.join(map(text, node.items))}]"
    return "..."


def _arguments(node: nodes.Call | nodes.Filter | nodes.Test) -> str:
    said = [*map(expression_text, node.args),
            *(f"{pair.key}={expression_text(pair.value)}" for pair in node.kwargs)]  # fmt: skip
    return f"({', '.join(said)})" if said else ""
