"""Refuse what the check of chat templates does not follow: every form that is not known here.

A form is known where `chat_kinds` and `chat_counts` say truly what it depends on. Code that no conversation
of a runner reaches (`Kinds.always`) may have any form.
"""

from jinja2 import nodes

from exporter.chat.branches import expression_text
from exporter.chat.check import MOST_TURNS
from exporter.chat.counts import ARITHMETIC, Counts
from exporter.chat.kinds import Kind, Kinds

_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign,
               nodes.AssignBlock, nodes.Macro, nodes.Break, nodes.Continue)  # fmt: skip
_EXPRESSIONS = (
    nodes.Const, nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter,
    nodes.Test,
    nodes.Call, nodes.Compare, nodes.Operand, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not, nodes.Add,
    nodes.Concat, nodes.Neg, nodes.Pos, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
    *ARITHMETIC,
)  # fmt: skip
_TAGS = {
    "With": "{% with %}",
    "CallBlock": "{% call %}", "FilterBlock": "{% filter %}", "Include": "{% include %}",
    "Import": "{% import %}", "FromImport": "{% from %}", "Extends": "{% extends %}", "Block": "{% block %}",
    "Scope": "{% autoescape %}", "ScopedEvalContextModifier": "{% autoescape %}",
}  # fmt: skip
_FUNCTIONS = {"namespace", "raise_exception", "strftime_now", "range"}
_FIELDS_OF_LOOP = {
    "first", "last", "index", "index0", "revindex", "revindex0", "length", "previtem", "nextitem",
}  # fmt: skip
_VALUES_OF_JINJA = {"varargs", "kwargs", "caller", "self", "dict", "lipsum", "cycler", "joiner"}
_FILTERS_OF_MESSAGES = {"length", "count", "first", "last", "list", "reverse", "default", "d"}
_SELECTIONS = {"selectattr", "rejectattr"}
_FILTERS_WITH_CONTENTS = {"default", "d"}  # among their arguments
_TESTS = {
    "defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "boolean",
    "callable",
    "integer", "float", "true", "false", "odd", "even", "divisibleby", "eq", "equalto", "==", "ne", "!=",
    "lt",
    "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">=",
    "in", "lower", "upper", "sameas",
}  # fmt: skip
_COUNTING = (nodes.Compare, nodes.Test, nodes.Filter, nodes.Call, nodes.Getitem, nodes.Add, *ARITHMETIC)


class NotFollowed(Exception):
    """A template has a form that the check does not follow."""


def check_forms(tree: nodes.Template, kinds: Kinds, counts: Counts) -> None:
    """Raise NotFollowed naming the first form of `tree` that the check does not follow."""
    _Forms(tree, kinds, counts).visit(tree, ())


class _Forms:
    def __init__(self, tree: nodes.Template, kinds: Kinds, counts: Counts):
        self._kinds, self._counts = kinds, counts
        self._macros = [macro.name for macro in tree.find_all(nodes.Macro)]
        self._namespaces = {assign.target.name for assign in tree.find_all(nodes.Assign)
                            if _makes_namespace(assign)}  # fmt: skip

    def visit(self, node: nodes.Node, above: tuple[nodes.Node, ...]) -> None:
        """Look at a node and all below it; `above` are those it is in, the nearest last."""
        match node:
            case nodes.CallBlock(call=nodes.Call(node=nodes.ExtensionAttribute())):  # {% generation %}
                return self._visit_all(node.body, above)
            case nodes.If() if (always := self._kinds.always(node.test)) is not None:
                return self._visit_all(node.body if always else [*node.elif_, *node.else_], above)
            case nodes.For() if self._kinds.is_no_field(node.iter):
                return self._visit_all(node.else_, above)
        if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
            name = type(node).__name__
            raise _refusal(_TAGS.get(name, f"an expression of the kind {name}"))
        check = getattr(self, f"_check_{type(node).__name__.lower()}", None)
        if check:
            check(node, above)
        if isinstance(node, ARITHMETIC):
            self._check_arithmetic(node, above)
        self._visit_all(node.iter_child_nodes(), (*above, node))

    def _visit_all(self, below, above: tuple[nodes.Node, ...]) -> None:
        for node in below:
            self.visit(node, above)

    # -- statements ------------------------------------------------------------------------------

    def _check_for(self, node: nodes.For, above) -> None:
        if node.recursive:
            raise _refusal("a recursive loop")

    def _check_assignblock(self, node: nodes.AssignBlock, above) -> None:
        if node.filter is not None:
            raise _refusal("{% set %} with a filter")

    def _check_macro(self, node: nodes.Macro, above) -> None:
        if node.defaults:
            raise _refusal(f"a macro with default arguments, '{node.name}'")
        if self._macros.count(node.name) > 1 or any(
            isinstance(outer, nodes.Macro | nodes.For) for outer in above
        ):
            raise _refusal(f"a macro that is defined anew or within another block, '{node.name}'")
        if any(getattr(call.node, "name", None) == node.name for call in node.find_all(nodes.Call)):
            raise _refusal(f"a macro that calls itself, '{node.name}'")

    # -- names -----------------------------------------------------------------------------------

    def _check_name(self, node: nodes.Name, above) -> None:
        owner, name = above[-1], node.name
        if node.ctx != "load":
            made = isinstance(owner, nodes.Assign) and _makes_namespace(owner)
            if name in (*self._macros, *_FUNCTIONS, "loop") or name in self._namespaces and not made:
                raise _refusal(f"a second meaning of '{name}'")
            return
        if name in _VALUES_OF_JINJA:
            raise _refusal(f"'{name}'")
        called = isinstance(owner, nodes.Call) and owner.node is node
        if name in self._macros or name in _FUNCTIONS:
            asked = isinstance(owner, nodes.Test) and owner.name in ("defined", "undefined")
            if not called and not asked:
                raise _refusal(f"another name for '{name}'")
        elif called:
            raise _refusal(f"the function '{name}'")
        if name in (*self._namespaces, "loop") and not (
            isinstance(owner, nodes.Getattr) and owner.node is node
        ):
            raise _refusal(f"'{name}' as a value")

    def _check_getattr(self, node: nodes.Getattr, above) -> None:
        if (
            isinstance(node.node, nodes.Name)
            and node.node.name == "loop"
            and node.attr not in _FIELDS_OF_LOOP
        ):
            raise _refusal(f"loop.{node.attr}")

    # -- operations ------------------------------------------------------------------------------

    def _check_call(self, node: nodes.Call, above) -> None:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _refusal("a call with unpacked arguments")
        if getattr(node.node, "name", None) == "namespace":
            if node.args or not (isinstance(above[-1], nodes.Assign) and _makes_namespace(above[-1])):
                raise _refusal("a namespace without a name of its own")
            return
        if not isinstance(node.node, nodes.Name | nodes.Getattr):
            raise _refusal(f"the call `{expression_text(node)}`")
        if getattr(node.node, "name", None) == "raise_exception":
            return  # whatever it is given, nothing is rendered
        is_macro = isinstance(node.node, nodes.Name) and node.node.name in self._macros
        if isinstance(node.node, nodes.Getattr) and self._kinds.of(node.node.node) != Kind.CONTENT:
            known = self._kinds.of(node.node.node) == Kind.MESSAGE and node.node.attr == "get"
            if not known and any(map(self._holds, self._given(node))):
                raise _refusal(f"`{expression_text(node)}`, a method that is given what messages say")
        if not is_macro and any(map(self._counts.counted, self._given(node))):
            raise _refusal(f"`{expression_text(node)}` with a count of messages")
        if isinstance(node.node, nodes.Name) and node.node.name == "range":
            if any(map(self._holds, node.args)):
                raise _refusal(f"`{expression_text(node)}`")

    def _check_filter(self, node: nodes.Filter, above) -> None:
        if node.node is None:
            raise _refusal("a filter of a block")
        text, kind = expression_text(node), self._kinds.of(node.node)
        if kind in (Kind.MESSAGE, Kind.MESSAGES):
            constant = all(isinstance(arg, nodes.Const) for arg in node.args)
            by_role = node.args and getattr(node.args[0], "value", None) == "role"
            selects = node.name in _SELECTIONS and constant and by_role and not node.kwargs
            plain = node.name in _FILTERS_OF_MESSAGES and (
                not self._given(node) or node.name in ("default", "d")
            )
            if not selects and not plain:
                raise _refusal(f"`{text}`, a filter of messages")
        if node.name not in _FILTERS_WITH_CONTENTS and any(map(self._holds, self._given(node))):
            raise _refusal(f"`{text}`, a filter that is given what messages say")
        printed = node.name == "string" and not _is_asked(above)
        if (
            self._counts_outside(node.node)
            and not printed
            or any(map(self._counts.counted, self._given(node)))
        ):
            raise _refusal(f"`{text}`, a filter of a count of messages")

    def _check_test(self, node: nodes.Test, above) -> None:
        if node.name not in _TESTS:
            raise _refusal(f"the test '{node.name}'")

    def _check_getitem(self, node: nodes.Getitem, above) -> None:
        text, kind = expression_text(node), self._kinds.of(node.node)
        if isinstance(node.arg, nodes.Slice):
            bounds = [bound for bound in (node.arg.start, node.arg.stop, node.arg.step) if bound is not None]
            if not all(_is_number(bound) for bound in bounds):
                raise _refusal(f"`{text}`, a slice with bounds that are no numbers")
        elif self._holds(node.arg):
            raise _refusal(f"`{text}`, which looks up what messages say")
        elif isinstance(node.arg, nodes.Const) or _is_number(node.arg):
            return
        elif kind != Kind.MESSAGES or not self._counts.counted(node.arg):
            raise _refusal(f"`{text}`, which looks up a value")

    def _check_const(self, node: nodes.Const, above) -> None:
        values = node.value if isinstance(node.value, tuple | list) else (node.value,)
        far = [v for v in values if isinstance(v, int | float) and abs(v) >= MOST_TURNS]
        within = next((outer for outer in reversed(above) if isinstance(outer, _COUNTING)), None)
        if getattr(getattr(within, "node", None), "name", None) == "namespace":
            return
        if far and within is not None and self._kinds.of(within) != Kind.CONTENT:
            raise NotFollowed(
                f"the chat template has `{expression_text(within)}`, a count beyond the {MOST_TURNS} turns "
                "that the check tries"
            )

    def _check_concat(self, node: nodes.Concat, above) -> None:
        if _is_asked(above) and any(map(self._counts_outside, node.nodes)):
            raise _refusal(f"`{expression_text(node)}` of a count of messages")

    def _check_arithmetic(self, node: nodes.BinExpr, above) -> None:
        """Differences may stand anywhere; others in a comparison, which is tried both ways."""
        if isinstance(node, nodes.Sub):
            return
        compared = next(
            (outer for outer in reversed(above) if not isinstance(outer, (nodes.Add, *ARITHMETIC))), None
        )
        if self._holds(node) and not any(self._counts.counted(side) for side in (node.left, node.right)):
            raise _refusal(f"the operator {node.operator} on what messages say")
        if not isinstance(compared, nodes.Compare | nodes.Operand | nodes.Test):
            raise _refusal(f"the operator {node.operator} outside a comparison")

    def _given(self, node: nodes.Call | nodes.Filter) -> list[nodes.Node]:
        return [*node.args, *(keyword.value for keyword in node.kwargs)]

    def _holds(self, node: nodes.Node) -> bool:
        return self._kinds.of(node) != Kind.PLAIN

    def _counts_outside(self, node: nodes.Node) -> bool:
        """Whether it is a count, and nothing of messages or contents."""
        return self._counts.counted(node) and self._kinds.of(node) == Kind.PLAIN


def _makes_namespace(node: nodes.Assign) -> bool:
    return (
        isinstance(node.target, nodes.Name) and isinstance(node.node, nodes.Call)
        and getattr(node.node.node, "name", None) == "namespace"
    )  # fmt: skip


def _is_asked(above: tuple[nodes.Node, ...]) -> bool:
    return any(
        isinstance(outer, nodes.Compare | nodes.Test | nodes.Getitem | nodes.Assign) for outer in above
    )


def _is_number(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Neg):
        node = node.node
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


def _refusal(what: str) -> NotFollowed:
    return NotFollowed(f"the chat template uses {what}, which the check of chat templates does not follow")
