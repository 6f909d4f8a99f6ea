"""What is known of a template's expressions at export: constants, named tokens, names that nobody sets."""

from collections.abc import Mapping, Set

import jinja2
from jinja2 import nodes

from exporter.chat import functions

GLOBALS = ("namespace", "raise_exception", "strftime_now", "range")
BUILT_IN = (*GLOBALS, "dict", "lipsum", "cycler", "joiner", "self", "varargs", "kwargs", "caller", "loop")
UNDEFINED = object()
UNKNOWN = object()


class Folding:
    """Folds expressions by `constants`, names that never change, and `names`, those that have a value."""

    def __init__(self, constants: Mapping[str, str], names: Set[str], environment: jinja2.Environment):
        self._constants = constants
        self._names = names
        self._environment = environment

    def value(self, node: nodes.Node) -> object:
        """The constant that an expression is for this artifact, UNDEFINED, or UNKNOWN."""
        match node:
            case nodes.Const() | nodes.TemplateData():
                return node.as_const()
            case nodes.Name():
                if node.name in self._constants:
                    return self._constants[node.name]
                defined = node.name in self._names or node.name in BUILT_IN
                return UNKNOWN if defined else UNDEFINED
            case nodes.Test(name="defined" | "undefined", node=nodes.Name() as name):
                if name.name in GLOBALS or self.value(name) not in (UNKNOWN, UNDEFINED):
                    return node.name == "defined"
                return UNKNOWN if self.value(name) is UNKNOWN else node.name == "undefined"
            case nodes.Not() | nodes.And() | nodes.Or():
                decided = self.truth(node)
                return UNKNOWN if decided is None or not isinstance(node, nodes.Not) else decided
        return self._folded(node)

    def truth(self, node: nodes.Node) -> bool | None:
        """Whether a condition holds for this artifact; None where a conversation decides."""
        match node:
            case nodes.Not():
                inner = self.truth(node.node)
                return None if inner is None else not inner
            case nodes.And() | nodes.Or():
                ends = isinstance(node, nodes.Or)
                sides = [self.truth(side) for side in chain(node, type(node))]
                if None in sides:
                    return ends if ends in sides[: sides.index(None)] else None
                return ends in sides if ends else False not in sides
        value = self.value(node)
        return None if value is UNKNOWN else value is not UNDEFINED and bool(value)

    def _folded(self, node: nodes.Node) -> object:
        """The value of an expression of constants alone, as Jinja computes it."""
        match node:
            case nodes.Filter(name=name) if name not in functions.FILTERS:
                return UNKNOWN
            case nodes.Call() | nodes.CondExpr() | nodes.Getattr() | nodes.Getitem() | nodes.Test():
                return UNKNOWN
        if isinstance(node, nodes.Dict | nodes.List | nodes.Tuple) or any(
            self.value(child) in (UNKNOWN, UNDEFINED)
            for child in node.iter_child_nodes(exclude=("filter", "eval_ctx"))
            if isinstance(child, nodes.Expr)
        ):
            return UNKNOWN
        if not isinstance(node, nodes.BinExpr | nodes.UnaryExpr | nodes.Concat):
            return UNKNOWN
        try:
            value = _with_constants(node, self._constants).as_const(nodes.EvalContext(self._environment))
        except nodes.Impossible:
            return UNKNOWN
        return value if isinstance(value, str | int | float | bool | None) else UNKNOWN


def _with_constants(node: nodes.Node, constants: Mapping[str, str]) -> nodes.Node:
    """A copy in which named tokens are constants."""
    match node:
        case nodes.Name():
            return nodes.Const(constants[node.name], lineno=node.lineno, environment=node.environment)
        case nodes.Concat():
            parts = [_with_constants(part, constants) for part in node.nodes]
            return nodes.Concat(parts, lineno=node.lineno, environment=node.environment)
        case nodes.BinExpr():
            sides = (_with_constants(side, constants) for side in (node.left, node.right))
            return type(node)(*sides, lineno=node.lineno, environment=node.environment)
        case nodes.UnaryExpr():
            inner = _with_constants(node.node, constants)
            return type(node)(inner, lineno=node.lineno, environment=node.environment)
    return node


def chain(node: nodes.BinExpr, kind: type[nodes.BinExpr], left_only: bool = False) -> list[nodes.Node]:
    """The operands of `a + b + c` in order."""
    if not isinstance(node, kind):
        return [node]
    right = [node.right] if left_only else chain(node.right, kind)
    return [*chain(node.left, kind, left_only), *right]
