"""A chat template as the tree that the runner evaluates: Jinja's own, folded, in a list of nodes.

Each node is `[op, ...]`: names as texts, parts as the numbers of nodes before it, -1 for none; the last node
is the whole. `runner/text/template_tree.cpp` lists the ops, docs/artifact.md says what they mean. What the
artifact decides is folded: constants, the named tokens, names that no runner sets, and branches by these.
"""

from collections.abc import Mapping, Sequence

from jinja2 import nodes

from exporter.chat import functions
from exporter.chat.expression_text import expression_text
from exporter.chat.folding import BUILT_IN, GLOBALS, UNDEFINED, UNKNOWN, Folding, chain
from exporter.chat.functions import Function
from exporter.chat.sites import Site, Tree

# What a runner gives; every other name that a template does not set is undefined.
INPUTS = (
    "messages", "tools", "documents", "add_generation_prompt", "enable_thinking", "thinking",
    "reasoning_effort",
)  # fmt: skip
_LOOP_FIELDS = (
    "index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem", "depth",
    "depth0",
)  # fmt: skip
_BINARY = {
    nodes.Sub: "sub", nodes.Mul: "mul", nodes.Div: "div", nodes.FloorDiv: "floordiv", nodes.Mod: "mod",
    nodes.Pow: "pow",
}  # fmt: skip
_SHARED = ("const", "name", "attr", "item", "slice")


class NotKnown(Exception):
    """A template uses what the runner's evaluator does not have."""


def make_tree(template: nodes.Template, tokens: Mapping[str, str]) -> Tree:
    """Make the tree of a parsed template; `tokens` are the named special tokens, `{"bos_token": "<s>"}`.

    Raises NotKnown naming the first thing that the runner's evaluator does not have.
    """
    return _Maker(template, tokens).make()


class _Maker:
    def __init__(self, template: nodes.Template, tokens: Mapping[str, str]):
        self._template = template
        self._nodes: list[list] = []
        self._known: dict[str, int] = {}  # of nodes that may be shared
        self._sites: list[Site] = []
        self._macros = {macro.name for macro in template.find_all(nodes.Macro)}
        self._depth = 0
        stored = {name.name for name in template.find_all(nodes.Name) if name.ctx != "load"}
        constants = {name: token for name, token in tokens.items() if name not in stored}
        self._changed = {name: token for name, token in tokens.items() if name in stored}
        self._set = stored | self._macros | set(INPUTS)
        self._folding = Folding(constants, self._set, template.environment)

    def make(self) -> Tree:
        first = [self._add("set", self._shared("name", name), self._const(token))
                 for name, token in self._changed.items()]  # fmt: skip
        self._sequence(self._template.body, first)
        return Tree(self._nodes, tuple(self._sites))

    # -- nodes -----------------------------------------------------------------------------------

    def _add(self, op: str, *parts: object) -> int:
        self._nodes.append([op, *parts])
        return len(self._nodes) - 1

    def _shared(self, op: str, *parts: object) -> int:
        """A node like others, of which one serves all: its outcomes are not noted."""
        key = repr((op, parts))
        if key not in self._known:
            self._known[key] = self._add(op, *parts)
        return self._known[key]

    def _const(self, value: object) -> int:
        return self._shared("const", _json_value(value))

    # -- statements ------------------------------------------------------------------------------

    def _sequence(self, body: Sequence[nodes.Node], first: Sequence[int] = ()) -> int:
        statements = [number for node in body if (number := self._statement(node)) is not None]
        if len(statements) == 1 and not first:
            return statements[0]
        return self._add("seq", *first, *statements)

    def _statement(self, node: nodes.Node) -> int | None:
        match node:
            case nodes.Output():
                return self._output(node)
            case nodes.If():
                return self._if(node)
            case nodes.For():
                return self._for(node)
            case nodes.Assign():
                return self._add("set", self._target(node.target), self._expression(node.node))
            case nodes.AssignBlock():
                return self._add("set", self._target(node.target), self._captured(node.body, node.filter))
            case nodes.FilterBlock():
                return self._add("out", self._captured(node.body, node.filter))
            case nodes.Macro():
                return self._macro(node)
            case nodes.Break():
                return self._add("break")
            case nodes.Continue():
                return self._add("continue")
            case nodes.CallBlock(call=nodes.Call(node=nodes.ExtensionAttribute())):  # {% generation %}
                return self._add("out", self._add("capture", self._sequence(node.body)))
        raise _not_known(f"the tag {type(node).__name__.lower()}", node)

    def _output(self, node: nodes.Output) -> int | None:
        parts, text = [], ""
        for part in node.nodes:
            value = part.data if isinstance(part, nodes.TemplateData) else self._folding.value(part)
            if isinstance(value, str):
                text += value
                continue
            if text:
                parts.append(self._const(text))
                text = ""
            parts.append(self._expression(part))
        if text:
            parts.append(self._const(text))
        return self._add("out", *parts) if parts else None

    def _if(self, node: nodes.If) -> int | None:
        parts: list[int] = []
        for branch in (node, *node.elif_):
            decided = self._folding.truth(branch.test)
            if decided is False:
                continue
            if decided:
                parts.append(self._sequence(branch.body))
                break
            parts += [self._condition(branch.test), self._sequence(branch.body)]
        else:
            if node.else_:
                parts.append(self._sequence(node.else_))
        if len(parts) == 1:
            return parts[0]
        return self._add("if", *parts) if parts else None

    def _for(self, node: nodes.For) -> int:
        if node.recursive:
            raise _not_known("a recursive loop", node)
        listed, target = self._expression(node.iter), self._target(node.target)
        test = -1 if node.test is None else self._condition(node.test)
        self._depth += 1
        body = self._sequence(node.body)
        self._depth -= 1
        number = self._add(
            "for", target, listed, test, body, self._sequence(node.else_) if node.else_ else -1
        )
        self._sites.append(
            Site(number, f"for ... in {expression_text(node.iter)}", node.lineno, is_loop=True)
        )
        return number

    def _captured(self, body: Sequence[nodes.Node], filter: nodes.Filter | None) -> int:
        number = self._add("capture", self._sequence(body))
        filters = []
        while filter is not None:
            filters.append(filter)
            filter = filter.node
        for each in reversed(filters):
            number = self._filtered(each, number)
        return number

    def _macro(self, node: nodes.Macro) -> int:
        if self._depth:
            raise _not_known(f"a macro within a loop or another macro, '{node.name}'", node)
        self._depth += 1
        defaults = [self._expression(default) for default in node.defaults]
        body = self._sequence(node.body)
        self._depth -= 1
        return self._add("macro", node.name, *(arg.name for arg in node.args), body, *defaults)

    def _target(self, node: nodes.Node) -> int:
        match node:
            case nodes.Name():
                if node.name in (*GLOBALS, "loop"):
                    raise _not_known(f"another meaning of '{node.name}'", node)
                return self._shared("name", node.name)
            case nodes.NSRef():
                return self._shared("field", node.name, node.attr)
            case nodes.Tuple() if all(isinstance(part, nodes.Name) for part in node.items):
                return self._add("tuple", *map(self._target, node.items))
        raise _not_known("a tuple within another as what is set", node)

    # -- expressions -----------------------------------------------------------------------------

    def _condition(self, node: nodes.Node) -> int:
        """An expression whose outcomes are noted, in a node of its own; of `and`, `or` and `not` those of
        their sides are."""
        if isinstance(node, nodes.And | nodes.Or):
            return self._both_or_either(node, decides=True)
        number = self._expression(node)
        if isinstance(node, nodes.Not):
            return number
        if self._nodes[number][0] in _SHARED:
            number = self._add(*self._nodes[number])
        self._sites.append(Site(number, expression_text(node), node.lineno))
        return number

    def _expression(self, node: nodes.Node) -> int:
        value = self._folding.value(node)
        if value is not UNKNOWN and value is not UNDEFINED:
            return self._const(value)
        match node:
            case nodes.Name():
                return self._name(node)
            case nodes.Getattr() | nodes.Getitem():
                return self._part(node)
            case nodes.Not():
                return self._add("not", self._condition(node.node))
            case nodes.And() | nodes.Or():
                return self._both_or_either(node, decides=False)
            case nodes.CondExpr():
                decided = self._folding.truth(node.test)
                if decided is None:
                    test = self._condition(node.test)
                    other = -1 if node.expr2 is None else self._expression(node.expr2)
                    return self._add("cond", test, self._expression(node.expr1), other)
                chosen = node.expr1 if decided else node.expr2
                return self._undefined() if chosen is None else self._expression(chosen)
            case nodes.Add():
                return self._add("add", *map(self._expression, chain(node, nodes.Add, left_only=True)))
            case nodes.BinExpr() if type(node) in _BINARY:
                return self._add(
                    _BINARY[type(node)], self._expression(node.left), self._expression(node.right)
                )
            case nodes.Neg() | nodes.Pos():
                return self._add(type(node).__name__.lower(), self._expression(node.node))
            case nodes.Concat():
                return self._add("concat", *map(self._expression, node.nodes))
            case nodes.Compare():
                sides = [
                    self._expression(side) for side in (node.expr, *(operand.expr for operand in node.ops))
                ]
                return self._add("compare", *(operand.op for operand in node.ops), *sides)
            case nodes.List() | nodes.Tuple():
                return self._add(type(node).__name__.lower(), *map(self._expression, node.items))
            case nodes.Dict():
                pairs = [part for pair in node.items for part in (pair.key, pair.value)]
                return self._add("dict", *map(self._expression, pairs))
            case nodes.Filter():
                return self._filtered(node, self._expression(node.node))
            case nodes.Test():
                function, arguments = self._called(functions.TESTS, "the test", node.name, node)
                return self._add("test", function, self._expression(node.node), *arguments)
            case nodes.Call():
                return self._call(node)
        raise _not_known(f"an expression of the kind {type(node).__name__}", node)

    def _undefined(self) -> int:
        return self._shared("name", "")

    def _name(self, node: nodes.Name) -> int:
        name = node.name
        if name in BUILT_IN and name not in self._set:
            raise _not_known(f"'{name}'", node)
        return self._shared("name", name) if name in self._set else self._undefined()

    def _part(self, node: nodes.Getattr | nodes.Getitem) -> int:
        if isinstance(node, nodes.Getattr):
            name: object = node.attr
        else:
            name = node.arg.value if isinstance(node.arg, nodes.Const) else None
        if isinstance(node.node, nodes.Name) and node.node.name == "loop":
            if name not in _LOOP_FIELDS:
                raise _not_known(f"loop.{name}", node)
            return self._add("loop", name)
        if isinstance(name, str) and name.startswith("_"):
            raise _not_known(f"the field '{name}'", node)
        owner = self._expression(node.node)
        if isinstance(node, nodes.Getattr):
            return self._shared("attr", name, owner)
        if not isinstance(node.arg, nodes.Slice):
            return self._shared("item", owner, self._expression(node.arg))
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return self._shared("slice", owner, *(-1 if end is None else self._expression(end) for end in ends))

    def _both_or_either(self, node: nodes.And | nodes.Or, decides: bool) -> int:
        op, ends = ("and", False) if isinstance(node, nodes.And) else ("or", True)
        sides = chain(node, type(node))
        parts: list[int] = []
        for side in sides:
            decided = self._folding.truth(side)
            if decided is (not ends) and side is not sides[-1]:  # it neither decides nor is the value
                continue
            is_choice = decided is None and (decides or side is not sides[-1])
            parts.append(self._condition(side) if is_choice else self._expression(side))
            if decided is ends:
                break
        return parts[0] if len(parts) == 1 else self._add(op, *parts)

    def _filtered(self, node: nodes.Filter, subject: int) -> int:
        if node.name in ("select", "reject", "selectattr", "rejectattr"):
            return self._selection(node, subject)
        if node.name == "map":
            return self._mapping(node, subject)
        function, arguments = self._called(functions.FILTERS, "the filter", node.name, node)
        return self._add("filter", function, subject, *arguments)

    def _selection(self, node: nodes.Filter, subject: int) -> int:
        given = list(node.args)
        attribute = [self._expression(given.pop(0))] if node.name.endswith("attr") and given else []
        if node.kwargs or node.name.endswith("attr") and not attribute:
            raise _not_known(f"the filter '{node.name}' of these arguments", node)
        if not given:
            return self._add(node.name, functions.TRUTH.name, subject, *attribute)
        if not isinstance(given[0], nodes.Const):
            raise _not_known(f"the filter '{node.name}' of a test that is no constant", node)
        call = nodes.Test(node.node, given[0].value, given[1:], [], None, None, lineno=node.lineno)
        function, arguments = self._called(functions.TESTS, "the test", given[0].value, call)
        return self._add(node.name, function, subject, *attribute, *arguments)

    def _mapping(self, node: nodes.Filter, subject: int) -> int:
        if not node.args:
            arguments = self._arguments(functions.MAP_ATTRIBUTE, "the filter", node)
            return self._add("filter", functions.MAP_ATTRIBUTE.name, subject, *arguments)
        if not isinstance(node.args[0], nodes.Const):
            raise _not_known("the filter 'map' of a filter that is no constant", node)
        name = node.args[0].value
        call = nodes.Filter(node.node, name, node.args[1:], node.kwargs, None, None, lineno=node.lineno)
        function, arguments = self._called(functions.FILTERS, "the filter", name, call)
        return self._add("map", function, subject, *arguments)

    def _call(self, node: nodes.Call) -> int:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _not_known("a call with * or **", node)
        match node.node:
            case nodes.Name(name="namespace") if not node.args:
                values = [self._expression(pair.value) for pair in node.kwargs]
                return self._add("namespace", *(pair.key for pair in node.kwargs), *values)
            case nodes.Name(name="raise_exception" | "strftime_now" as name):
                parameters = Function(name, (("text", functions.REQUIRED),))
                op = "raise" if name == "raise_exception" else "now"
                return self._add(op, *self._arguments(parameters, "", node))
            case nodes.Name(name="range") if not node.kwargs and 1 <= len(node.args) <= 3:
                given = [self._expression(argument) for argument in node.args]
                return self._add("range", *given, *[-1] * (3 - len(given)))
            case nodes.Name(name=name) if name in self._macros:
                values = [self._expression(argument) for argument in node.args]
                named = [self._expression(pair.value) for pair in node.kwargs]
                return self._add("call", name, *(pair.key for pair in node.kwargs), *values, *named)
            case nodes.Getattr(attr=name) as method:
                return self._method(node, method, name)
        raise _not_known(f"a call of `{expression_text(node.node)}`", node)

    def _method(self, node: nodes.Call, method: nodes.Getattr, name: str) -> int:
        subject = self._expression(method.node)
        if name in functions.FORBIDDEN_METHODS:
            return self._add(
                "raise", self._const(f"it calls '{name}', which the sandbox of templates forbids")
            )
        function, arguments = self._called(functions.METHODS, "the method", name, node)
        return self._add("method", function, subject, *arguments)

    def _called(
        self,
        known: Mapping[str, Function],
        what: str,
        name: str,
        node: nodes.Filter | nodes.Test | nodes.Call,
    ) -> tuple[str, list[int]]:
        if name not in known:
            raise _not_known(f"{what} '{name}'", node)
        return known[name].name, self._arguments(known[name], what, node)

    def _arguments(
        self, function: Function, what: str, node: nodes.Filter | nodes.Test | nodes.Call
    ) -> list[int]:
        """The arguments by position, with the defaults of those that are left out."""
        if function.variadic and not node.kwargs:
            return [self._expression(argument) for argument in node.args]
        named = {pair.key: pair.value for pair in node.kwargs}
        parameters = function.parameters
        unknown = named.keys() - {name for name, _ in parameters[len(node.args) :]}
        given = {**dict(zip((name for name, _ in parameters), node.args, strict=False)), **named}
        lacking = [
            name for name, default in parameters if default is functions.REQUIRED and name not in given
        ]
        if unknown or lacking or len(node.args) > len(parameters):
            raise _not_known(f"{what} '{function.name}' of these arguments", node)
        for name, values in function.only:
            if name in given and self._folding.value(given.pop(name)) not in values:
                raise _not_known(f"{what} '{function.name}' with another {name}", node)
        limited = {name for name, _ in function.only}
        return [
            self._expression(given[name]) if name in given else self._const(default)
            for name, default in parameters if name not in limited
        ]  # fmt: skip


def _json_value(value: object) -> object:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise NotKnown(f"the chat template holds a constant of the type {type(value).__name__}")


def _not_known(what: str, node: nodes.Node) -> NotKnown:
    return NotKnown(f"the chat template has {what} in line {node.lineno}, which the runner does not know")
