"""Which choices of a chat template the conversations of a check made, and which they never made.

Every condition that depends on what messages say (`chat_kinds`), or on how many there are (`chat_counts`),
is wrapped in a call that notes its outcome; every operation on a content in a pair of calls
that note whether it changed it. A condition that came out one way only in all conversations has a side
that nobody has compared; an operation that never changed anything is one that nobody has seen.
"""

from collections.abc import Iterator

from jinja2 import nodes

from exporter.chat.counts import Counts
from exporter.chat.kinds import Kinds

_OUTCOME, _OPERAND, _RESULT = "_note_outcome", "_note_operand", "_note_result"
_OPERATORS = {
    "eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "in": "in", "notin": "not in",
}  # fmt: skip
_ANY = {("gt", 0), ("gteq", 1), ("eq", 0), ("ne", 0), ("lt", 1)}
_NO_CHANGES = {"default", "d", "string", "safe", "length", "count"}  # filters


class Branches:
    """The conditions and operations of one template by number, and the outcomes of those that were met."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._operations: set[int] = set()
        self._operands: dict[int, object] = {}
        self._met: set[tuple[int, bool]] = set()
        self.globals = {_OUTCOME: self._outcome, _OPERAND: self._operand, _RESULT: self._result}

    def instrument(self, tree: nodes.Template) -> nodes.Template:
        """Return `tree` with its conditions and operations on contents wrapped, in place."""
        kinds, counts = Kinds(tree), Counts(tree)
        refusing = _only_refusing(tree)
        conditions = {
            id(node) for node in _conditions(tree)
            if (kinds.decides(node) or counts.counted(node) and not _asks_for_any(node))
            and kinds.always(node) is None
            and id(node) not in refusing
        }  # fmt: skip
        operands = ((node, _operand_of(node)) for node in tree.find_all(nodes.Expr))
        operations = {id(node) for node, operand in operands if operand and kinds.depends(operand)}
        self._wrap(tree, conditions, operations)
        return tree.set_environment(tree.environment)

    def take(self) -> frozenset[tuple[int, bool]]:
        """What was met since the last call, by number: outcomes, and whether an operation changed a text."""
        met = frozenset(self._met)
        self._met.clear()
        return met

    def changes(self, number: int) -> bool:
        """Whether it is an operation."""
        return number in self._operations

    def only(self, number: int, outcome: bool) -> str | None:
        """What it means that there was no other outcome; None where that is no matter."""
        text = self._texts[number]
        if number not in self._operations:
            return f"asks `{text}`, which is {str(outcome).lower()} in every conversation that was tried"
        words = "which changes nothing, or leaves nothing, in any conversation that was tried"
        return None if outcome else f"has `{text}`, {words}"

    def _outcome(self, number: int, value: object) -> object:
        self._met.add((number, bool(value)))
        return value

    def _operand(self, number: int, value: object) -> object:
        self._operands[number] = value
        return value

    def _result(self, number: int, value: object) -> object:
        operand = self._operands.get(number)
        if isinstance(value, list | tuple) and isinstance(operand, str):  # of split, partition and the like
            changed = [part for part in value if part] != [operand]
        else:
            changed = value != operand
        if isinstance(operand, str | list | tuple) and not isinstance(value, bool | int):
            self._met.add((number, changed and bool(value)))  # that nothing is left shows little
        return value

    def _wrap(self, node: nodes.Node, conditions: set[int], operations: set[int]) -> None:
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [self._wrapped(item, conditions, operations) for item in value])
            else:
                setattr(node, name, self._wrapped(value, conditions, operations))

    def _wrapped(self, value: object, conditions: set[int], operations: set[int]) -> object:
        if not isinstance(value, nodes.Node):
            return value
        asked, changes, text = id(value) in conditions, id(value) in operations, expression_text(value)
        self._wrap(value, conditions, operations)
        if changes:
            number = self._number(text)
            self._operations.add(number)
            owner = value.node if isinstance(value, nodes.Call) else value
            owner.node = _call(_OPERAND, number, owner.node)
            value = _call(_RESULT, number, value)
        return _call(_OUTCOME, self._number(text), value) if asked else value

    def _number(self, text: str) -> int:
        self._texts.append(text)
        return len(self._texts) - 1


def _call(name: str, number: int, value: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.Name(name, "load"), [nodes.Const(number), value], [], None, None)
    return call.set_lineno(value.lineno)


def _operand_of(node: nodes.Node) -> nodes.Node | None:
    """What a filter, a method or a selection acts on."""
    match node:
        case nodes.Filter():
            return None if node.name in _NO_CHANGES else node.node
        case nodes.Call(node=nodes.Getattr() as method):
            return method.node
        case nodes.Getitem():
            return node.node
    return None


def _conditions(tree: nodes.Template) -> Iterator[nodes.Node]:
    for node in tree.find_all((nodes.If, nodes.CondExpr, nodes.For)):
        if node.test is not None:
            yield node.test
    for node in tree.find_all((nodes.And, nodes.Or)):
        yield from (node.left, node.right)
    yield from (node.node for node in tree.find_all(nodes.Not))
    yield from tree.find_all((nodes.Compare, nodes.Test))


def _only_refusing(tree: nodes.Template) -> set[int]:
    """The expressions of tests that lead to an error alone: what they let through is compared."""
    return {
        id(node)
        for branch in tree.find_all(nodes.If)
        if all(_is_refusal(statement) for statement in branch.body)
        for node in (branch.test, *branch.test.find_all(nodes.Expr))
    }


def _is_refusal(statement: nodes.Node) -> bool:
    parts = statement.nodes if isinstance(statement, nodes.Output) else [statement]
    return all(
        isinstance(part, nodes.TemplateData) and not part.data.strip()
        or isinstance(part, nodes.Call) and getattr(part.node, "name", None) == "raise_exception"
        for part in parts
    )


def _asks_for_any(node: nodes.Node) -> bool:
    """Whether it asks if a list has anything in it, as messages always have."""
    match node:
        case nodes.And() | nodes.Or():
            return _asks_for_any(node.left) or _asks_for_any(node.right)
        case nodes.Compare(
            expr=nodes.Filter(name="length" | "count", node=nodes.Name(name="messages")), ops=[operand]
        ):
            return (operand.op, getattr(operand.expr, "value", None)) in _ANY
    return isinstance(node, nodes.Filter) and node.node == nodes.Name("messages", "load")


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
        case nodes.Neg():
            return f"-{text(node.node)}"
        case nodes.BinExpr():
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
