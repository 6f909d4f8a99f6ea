"""Write an expression of a parsed template as the template does, near enough to be found in it."""

from jinja2 import nodes

_OPERATORS = {
    "eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "in": "in", "notin": "not in",
}  # fmt: skip


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
