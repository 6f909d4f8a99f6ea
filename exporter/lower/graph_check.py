"""Check that a program holds the project's own operators alone."""

from torch._ops import OpOverload
from torch.fx import GraphModule

# Sizes that depend on the prompt's length, computed by the runtime library itself.
SYMBOLIC = ("aten.sym_size", "aten.sym_numel", "aten.sym_constrain_range", "aten._assert_scalar")
# How tracing writes a mutation before it is made in place, and how memory is planned.
BOOKKEEPING = ("auto_functionalized_v2", "getitem", "alloc")


def check_lowbit_only(module: GraphModule) -> None:
    """Raise RuntimeError naming operators of `module` that are not `lowbit::*`.

    One of PyTorch's operators would bring megabytes of its kernels along, and its arithmetic is
    not the same on every CPU.
    """
    if foreign := other_operators(module):
        raise RuntimeError(f"the lowbit program holds other operators: {', '.join(foreign)}")


def other_operators(module: GraphModule) -> list[str]:
    """List the operators of `module` that are not `lowbit::*`, sorted by name."""
    return sorted({
        name
        for node in module.graph.nodes
        if node.op == "call_function" and not _allowed(name := _name(node.target), node.target)
    })  # fmt: skip


def _allowed(name: str, target) -> bool:
    if name.startswith(("lowbit.", *SYMBOLIC)) or name in BOOKKEEPING:
        return True
    return getattr(target, "__module__", "") in ("_operator", "math")  # arithmetic on sizes


def _name(target) -> str:
    """Name an operator, `aten.add.Tensor`; the edge dialect of ExecuTorch wraps operators and prefixes their
    names."""
    if type(target).__name__ == "EdgeOpOverload":
        target = target._op
    if isinstance(target, OpOverload):
        return str(target)
    return getattr(target, "__name__", str(target))
