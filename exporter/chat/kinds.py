"""Find the expressions of a chat template whose value depends on what messages say.

Not on who says it and how many there are: a runner passes conversations of one shape, and contents
of any. The analysis is by name, without order of statements, and errs on the side of dependence: what
it does not know depends on contents where anything in it holds messages.
"""

from collections.abc import Iterator
from enum import IntEnum

from jinja2 import nodes


class Kind(IntEnum):
    """What a value holds; of two that may be, the greater."""

    PLAIN = 0  # nothing of what messages say
    MESSAGE = 1
    MESSAGES = 2
    CONTENT = 3  # depends on a content


# Filters that keep a list of messages, and tests of a type: a content is always a string.
_KEEPING = {"list", "reverse", "sort", "unique", "selectattr", "rejectattr"}
_TYPE_TESTS = {
    "defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "boolean",
    "callable", "integer", "float", "true", "false",
}  # fmt: skip
_FIELDS_OF_LOOP = {"previtem": Kind.MESSAGE, "nextitem": Kind.MESSAGE}
_Key = str | tuple[str, str]  # a name, or a namespace's name and its attribute


class Kinds:
    """The kinds of a template's expressions, found by going over it until nothing changes."""

    def __init__(self, tree: nodes.Template):
        self._names: dict[_Key, Kind] = {"messages": Kind.MESSAGES}
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self._results: dict[str, Kind] = {}
        set_to_none = {id(node.target) for node in tree.find_all(nodes.Assign) if _is_none(node.node)}
        self._assigned = {
            name.name for name in tree.find_all(nodes.Name)
            if name.ctx != "load" and id(name) not in set_to_none
        }  # fmt: skip
        self._changed = True
        while self._changed:
            self._changed = False
            self._visit(tree, Kind.PLAIN)

    def depends(self, node: nodes.Node) -> bool:
        """Whether the expression's value may differ between two contents."""
        return self.of(node) == Kind.CONTENT

    def of(self, node: nodes.Node | None) -> Kind:
        """What the expression's value holds."""
        match node:
            case None | nodes.Const() | nodes.TemplateData():
                return Kind.PLAIN
            case nodes.Name():
                return self._names.get(node.name, Kind.PLAIN)
            case nodes.NSRef():
                return self._names.get((node.name, node.attr), Kind.PLAIN)
            case nodes.Getattr():
                return self._field(node.node, node.attr)
            case nodes.Getitem():
                return self._item(node)
            case nodes.Test():
                known = node.name in _TYPE_TESTS and self._has_one_type(node.node)
                return Kind.PLAIN if known else self._mixed(node)
            case nodes.Dict():
                return self._dict(node)
            case nodes.Compare():
                return Kind.PLAIN if self._is_plain_comparison(node) else self._mixed(node)
            case nodes.Filter():
                return self._filtered(node)
            case nodes.Call():
                return self._called(node)
            case nodes.CondExpr():
                return max(self._decided(node.test), self.of(node.expr1), self.of(node.expr2))
            case nodes.And() | nodes.Or():
                return max(self.of(node.left), self.of(node.right))
            case nodes.Not():
                return self._decided(node.node)
            case nodes.List() | nodes.Tuple() | nodes.Add():
                return self._joined_list(node)
        return self._mixed(node)

    def _joined_list(self, node: nodes.List | nodes.Tuple | nodes.Add) -> Kind:
        """Messages where it is a list of them, or two such lists together."""
        held = {self.of(child) for child in node.iter_child_nodes()} - {Kind.PLAIN}
        whole = Kind.MESSAGES if isinstance(node, nodes.Add) else Kind.MESSAGE
        if not held:
            return Kind.PLAIN
        return Kind.MESSAGES if held == {whole} else Kind.CONTENT

    def _dict(self, node: nodes.Dict) -> Kind:
        """A message where nothing but its content depends on one."""
        held = {getattr(pair.key, "value", None): self.of(pair.value) for pair in node.items}
        others = held.keys() - {"role", "content"}
        content = held.pop("content", Kind.PLAIN)
        if any(held.values()) or content and others:
            return Kind.CONTENT
        return Kind.MESSAGE if content else Kind.PLAIN

    def _mixed(self, node: nodes.Node) -> Kind:
        """Take an operation that is not known: a message in it may be read whole."""
        holds = any(self.of(child) for child in node.iter_child_nodes())
        return Kind.CONTENT if holds else Kind.PLAIN

    def decides(self, test: nodes.Node | None) -> bool:
        """Whether a choice by this condition depends on a content: on more than whether there is any.

        The check tries empty contents everywhere, so that both sides of that question are compared.
        """
        match test:
            case nodes.And() | nodes.Or():
                return self.decides(test.left) or self.decides(test.right)
            case nodes.Not():
                return self.decides(test.node)
            case nodes.Compare(ops=[nodes.Operand(expr=nodes.Const(value="" | 0))]):
                counted = test.expr
                if isinstance(counted, nodes.Filter) and counted.name in ("length", "count"):
                    counted = counted.node
                return not self._is_content(counted) and self.depends(test)
        return not self._is_content(test) and self.of(test) == Kind.CONTENT

    def _decided(self, test: nodes.Node | None) -> Kind:
        return Kind.CONTENT if self.decides(test) else Kind.PLAIN

    def _is_content(self, node: nodes.Node | None) -> bool:
        """Whether it is the content of a message, as it is."""
        match node:
            case nodes.Getattr(attr="content") | nodes.Getitem(arg=nodes.Const(value="content")):
                return self.of(node.node) == Kind.MESSAGE
        return False

    def _is_plain_comparison(self, node: nodes.Compare) -> bool:
        """Whether it asks for a field of a message, or for none, true or false, which no content is."""
        if len(node.ops) != 1:
            return False
        left, operator, right = node.expr, node.ops[0].op, node.ops[0].expr
        if operator in ("in", "notin"):
            return isinstance(left, nodes.Const) and self.of(right) == Kind.MESSAGE
        for side, other in ((left, right), (right, left)):
            if isinstance(side, nodes.Const) and (side.value is None or isinstance(side.value, bool)):
                return self._has_one_type(other)
        return False

    def _has_one_type(self, node: nodes.Node) -> bool:
        """Whether its type is the same for all contents."""
        return self.of(node) != Kind.CONTENT or self._is_content(node)

    def _field(self, owner: nodes.Node, name: object) -> Kind:
        if isinstance(owner, nodes.Name):
            if owner.name == "loop":
                return max(self.of(owner), _FIELDS_OF_LOOP.get(name, Kind.PLAIN))
            if (owner.name, name) in self._names:
                return self._names[(owner.name, name)]
        kind = self.of(owner)
        if kind == Kind.MESSAGE:
            return Kind.CONTENT if name == "content" else Kind.PLAIN
        return Kind.CONTENT if kind else kind

    def _item(self, node: nodes.Getitem) -> Kind:
        kind = self.of(node.node)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return self._field(node.node, node.arg.value)
        if self.of(node.arg) == Kind.CONTENT or kind == Kind.MESSAGE:
            return Kind.CONTENT
        if kind == Kind.MESSAGES and not isinstance(node.arg, nodes.Slice):
            return Kind.MESSAGE
        return kind

    def _filtered(self, node: nodes.Filter) -> Kind:
        kind, name = self.of(node.node), node.name
        if kind in (Kind.PLAIN, Kind.CONTENT):
            return self._mixed(node)
        if name in ("length", "count"):
            return Kind.PLAIN
        if name in ("first", "last") and kind == Kind.MESSAGES:
            return Kind.MESSAGE
        by_role = [arg.value for arg in node.args[:1] if isinstance(arg, nodes.Const)] == ["role"]
        if name in _KEEPING and (by_role or not node.args and not node.kwargs):
            return kind
        if name in ("default", "d"):
            return max(kind, *(self.of(arg) for arg in node.args)) if node.args else kind
        return Kind.CONTENT

    def _called(self, node: nodes.Call) -> Kind:
        callee = node.node
        if isinstance(callee, nodes.Getattr) and self.of(callee.node) == Kind.MESSAGE:
            if callee.attr == "get" and node.args and isinstance(node.args[0], nodes.Const):
                return max([self._field(callee.node, node.args[0].value), *map(self.of, node.args[1:])])
            return Kind.CONTENT
        if isinstance(callee, nodes.Name) and callee.name in self._macros:
            return max(self._results.get(callee.name, Kind.PLAIN), self._mixed(node))
        if isinstance(callee, nodes.Name) and callee.name == "namespace":
            return Kind.PLAIN  # its attributes have kinds of their own
        return self._mixed(node)

    def _set(self, key: _Key, kind: Kind) -> None:
        before = self._names.get(key, Kind.PLAIN)
        joined = Kind.CONTENT if kind and before and kind != before else max(kind, before)
        if joined != before:
            self._names[key] = joined
            self._changed = True

    def _visit(self, node: nodes.Node, control: Kind) -> None:
        """Enter what the statements assign; `control` is CONTENT where a content decides on them."""
        match node:
            case nodes.Assign():
                self._assign(node.target, node.node, control)
            case nodes.AssignBlock():
                self._set_target(node.target, max(control, self._printed(node.body)))
            case nodes.For():
                self._loop(node)
                if self.depends(node.iter) or self.decides(node.test):
                    control = Kind.CONTENT
                    self._set("loop", control)  # its fields count what came before
                elif self._ends_early(node):
                    control = Kind.CONTENT
            case nodes.If() if (always := self.always(node.test)) is not None:
                for child in node.body if always else (*node.elif_, *node.else_):
                    self._visit(child, control)
                return
            case nodes.If():
                control = max(control, self._decided(node.test))
            case nodes.Macro():
                self._macro(node)
            case nodes.Call():
                self._arguments(node)
        for child in node.iter_child_nodes():
            self._visit(child, control)

    def _ends_early(self, loop: nodes.For) -> bool:
        """Whether a content may decide to end a turn of the loop."""
        leaves = (nodes.Break, nodes.Continue)
        ends = any(True for _ in loop.find_all(leaves))
        return ends and any(
            self.decides(branch.test) for branch in loop.find_all(nodes.If)
            if any(True for _ in branch.find_all(leaves))
        )

    def always(self, test: nodes.Node) -> bool | None:
        """What a condition comes to for any conversation of a runner, as far as types and fields decide it.

        Contents are strings, messages have no other field than their role, and there are no tools.
        """
        match test:
            case nodes.Not():
                inner = self.always(test.node)
                return None if inner is None else not inner
            case nodes.And() | nodes.Or():
                decisive = isinstance(test, nodes.Or)
                sides = {self.always(test.left), self.always(test.right)}
                if decisive in sides:
                    return decisive
                return not decisive if sides == {not decisive} else None
            case nodes.Test():
                return self._always_of_type(test)
        return False if self.is_no_field(test) or self._is_never_given(test) else None

    def _is_never_given(self, node: nodes.Node) -> bool:
        """Whether it is one of the values that templates know and that are none for every runner."""
        return (
            isinstance(node, nodes.Name)
            and node.name in ("tools", "documents")
            and node.name not in self._assigned
        )

    def _always_of_type(self, test: nodes.Test) -> bool | None:
        if self._is_never_given(test.node):
            return {"defined": True, "undefined": False, "none": True, "string": False}.get(test.name)
        if self.is_no_field(test.node):
            return {"defined": False, "undefined": True, "none": False, "string": False}.get(test.name)
        if self._is_content(test.node):
            return {"string": True, "defined": True, "undefined": False, "none": False}.get(test.name)
        return None

    def is_no_field(self, node: nodes.Node) -> bool:
        """Whether it is a field of a message that a runner never gives."""
        match node:
            case nodes.Getattr():
                name: object = node.attr
            case nodes.Getitem(arg=nodes.Const(value=str() as name)):
                pass
            case _:
                return False
        return self.of(node.node) == Kind.MESSAGE and name not in ("role", "content")

    def _assign(self, target: nodes.Node, value: nodes.Node, control: Kind) -> None:
        made = isinstance(value, nodes.Call) and isinstance(value.node, nodes.Name)
        if made and value.node.name == "namespace" and isinstance(target, nodes.Name):
            for keyword in value.kwargs:
                self._set((target.name, keyword.key), max(control, self.of(keyword.value)))
            return
        self._set_target(target, max(control, self.of(value)))

    def _set_target(self, target: nodes.Node, kind: Kind) -> None:
        match target:
            case nodes.Name():
                self._set(target.name, kind)
            case nodes.NSRef():
                self._set((target.name, target.attr), kind)
            case nodes.Tuple():
                for part in target.items:
                    self._set_target(part, Kind.CONTENT if kind else kind)

    def _loop(self, node: nodes.For) -> None:
        kind = self.of(node.iter)
        each = {Kind.MESSAGES: Kind.MESSAGE, Kind.MESSAGE: Kind.PLAIN}.get(kind, kind)
        self._set_target(node.target, each)

    def _macro(self, node: nodes.Macro) -> None:
        printed = self._printed(node.body)
        if printed > self._results.get(node.name, Kind.PLAIN):
            self._results[node.name] = printed
            self._changed = True

    def _printed(self, body: list[nodes.Node]) -> Kind:
        outputs = (output for node in body for output in _with_self(node, nodes.Output))
        held = any(self.of(part) for output in outputs for part in output.nodes)
        return Kind.CONTENT if held else Kind.PLAIN

    def _arguments(self, node: nodes.Call) -> None:
        macro = self._macros.get(node.node.name) if isinstance(node.node, nodes.Name) else None
        if macro is None:
            return
        for parameter, value in zip(macro.args, node.args, strict=False):
            self._set(parameter.name, self.of(value))
        for keyword in node.kwargs:
            self._set(keyword.key, self.of(keyword.value))


def _is_none(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and node.value is None


def _with_self(node: nodes.Node, kind: type[nodes.Node]) -> Iterator[nodes.Node]:
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)
