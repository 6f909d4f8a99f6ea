"""Find the expressions of a chat template that depend on a count of messages or a place among them."""

from jinja2 import nodes

_FIELDS = {"index", "index0", "revindex", "revindex0", "length", "depth", "depth0"}
ARITHMETIC = (nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)


class Counts:
    """The names of a template that hold counts, found by going over its assignments until nothing changes.

    A text that grows with every assignment to the same name counts too.
    """

    def __init__(self, tree: nodes.Template):
        self._names: set[tuple[str, ...]] = set()
        size = -1
        while size < len(self._names):
            size = len(self._names)
            for node in tree.find_all((nodes.Assign, nodes.AssignBlock, nodes.For, nodes.Call)):
                self._enter(node)

    def counted(self, node: nodes.Node) -> bool:
        """Whether the expression's value may depend on a count."""
        return self._is_source(node) or any(self.counted(child) for child in node.iter_child_nodes())

    def _is_source(self, node: nodes.Node) -> bool:
        match node:
            case nodes.Getattr(node=nodes.Name(name="loop")):
                return node.attr in _FIELDS
            case nodes.Name():
                return (node.name,) in self._names
            case nodes.Getattr(node=nodes.Name(name=name)):
                return (name, node.attr) in self._names
            case nodes.Filter():
                return node.name in ("length", "count")
            case nodes.Add():
                sides = [side.value for side in (node.left, node.right) if isinstance(side, nodes.Const)]
                return any(isinstance(value, int | float) for value in sides)
        return isinstance(node, ARITHMETIC)

    def _enter(self, node: nodes.Node) -> None:
        match node:
            case nodes.AssignBlock():
                self._names |= _keys(node.target)
            case nodes.Assign():
                keys = _keys(node.target)
                if self.counted(node.node) or keys & _read(node.node):
                    self._names |= keys
                if isinstance(node.node, nodes.Call) and isinstance(node.target, nodes.Name):
                    self._names |= {(node.target.name, keyword.key) for keyword in node.node.kwargs
                                    if self.counted(keyword.value)}  # fmt: skip
            case nodes.For() if self.counted(node.iter):
                self._names |= _keys(node.target)


def _keys(target: nodes.Node) -> set[tuple[str, ...]]:
    """What an assignment sets: a name, or a namespace's name and its attribute."""
    match target:
        case nodes.Name():
            return {(target.name,)}
        case nodes.NSRef():
            return {(target.name, target.attr)}
    return {key for child in target.iter_child_nodes() for key in _keys(child)}


def _read(value: nodes.Node) -> set[tuple[str, ...]]:
    fields = {(field.node.name, field.attr) for field in (value, *value.find_all(nodes.Getattr))
              if isinstance(field, nodes.Getattr) and isinstance(field.node, nodes.Name)}  # fmt: skip
    if not isinstance(value, nodes.Add | nodes.Concat | nodes.List | nodes.Call | nodes.Filter):
        return fields
    return fields | {(name.name,) for name in value.find_all(nodes.Name)}
