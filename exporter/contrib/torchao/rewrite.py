"""Rewrite programs on torchao's packed operators to programs on `lowbit::*` with plain packed weights.

What torchao packs is meant for the library that packed it. The rewritten program holds nothing of
it: every weight is in the layout of kernels/layout.h, whoever packed it for torchao, and a table
that an embedding shares with the output layer is one constant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._prims_common import is_contiguous_or_false
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)

from exporter.contrib.torchao.aliases import (
    ALL,
    BIT_WIDTHS,
    EMBEDDING,
    LINEAR,
    SHARED_EMBEDDING,
    is_loaded,
)
from exporter.lowbit import ops

TABLE_CHUNK_ELEMENTS = 1 << 22  # of an embedding that is unpacked at a time


def rewrite(program: ExportedProgram) -> ExportedProgram:
    """Return `program`, which is left as it is, with `lowbit::*` for torchao's packed operators.

    Raises ValueError where a packed weight is no constant, is in bytes that only torchao's own
    library reads, or has groups that kernels/layout.h does not have.
    """
    ops.load()
    program = program.run_decompositions({})  # a new program, its tensor subclasses taken apart
    edit = _Edit(program)
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        found = _packed_operator(node.target)
        if found is None:
            continue
        name, bits = found
        if name not in _REWRITERS:
            raise ValueError(f"{node.target} is in the program; pack the weights before")
        with graph.inserting_before(node):
            target, arguments = _REWRITERS[name](edit, bits, _arguments(node))
            new = graph.call_function(target, arguments)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        edit.renamed[node.name] = new.name
        graph.erase_node(node)
    result = edit.finished()
    _check_submodules(result.graph_module)
    return result


# --- The operators --------------------------------------------------------------------------------

OperatorCall = tuple[OpOverload, tuple]


def _linear(edit: "_Edit", bits: int, a: dict) -> OperatorCall:
    weight, bias = edit.packed_linear(a["packed_weights"])
    x = edit.contiguous(a["activations"])
    return torch.ops.lowbit.linear_a8wx.default, (x, weight, bias, a["n"], True)


def _shared_embedding(edit: "_Edit", bits: int, a: dict) -> OperatorCall:
    weight, _ = edit.packed_linear(a["packed_weights"])
    return torch.ops.lowbit.embedding.default, (weight, edit.row(a["indices"]), a["k"], 1.0)


def _embedding(edit: "_Edit", bits: int, a: dict) -> OperatorCall:
    sources = [a["packed_weight_qvals"], a["weight_scales"], a["weight_zeros"]]
    width = a["embedding_dim"]
    weight = edit.constant(sources, "weight", partial(_pack_table, bits, width))
    return torch.ops.lowbit.embedding.default, (weight, edit.row(a["indices"]), width, 1.0)


_REWRITERS = {LINEAR: _linear, EMBEDDING: _embedding, SHARED_EMBEDDING: _shared_embedding}


def _pack_table(bits: int, columns: int, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Return the plain packed weight of torchao's embedding, whichever library packed it: with scales of 1
    and zero points of 0 its operator gives the integers."""
    scales, zeros = scales.contiguous(), zeros.contiguous()
    rows, n_groups = scales.shape
    size = columns // n_groups
    if n_groups > 1 and size % 16:
        raise ValueError(
            f"an embedding has groups of {size}; the lowbit layout has multiples of 16, or one "
            "group a row"
        )
    lookup = getattr(torch.ops.torchao, EMBEDDING.format(bits))
    ones, none, middle = torch.ones_like(scales), torch.zeros_like(zeros), 2 ** (bits - 1)
    values = torch.empty(rows, columns, dtype=torch.uint8)
    step = max(1, TABLE_CHUNK_ELEMENTS // columns)
    for part in torch.arange(rows).split(step):
        values[part] = (lookup(packed, rows, columns, ones, none, part) + middle).to(torch.uint8)
    unsigned_zeros = zeros.float() + middle if zeros.any() else None
    group_size = -(-size // 16) * 16
    kind = "none" if unsigned_zeros is None else "integer"
    return torch.ops.lowbit.pack_integer(
        values, scales, unsigned_zeros, bits, group_size, kind, False
    )


def _split(packed: Tensor) -> list[Tensor]:
    """Return a linear layer's plain packed weight, and its bias if there is one."""
    if not is_loaded():
        raise ValueError(
            "the weights were packed by torchao's own library, for itself only; quantize and "
            "export where torchao has none and exporter.contrib.torchao.aliases.load_aliases() is true"
        )
    return torch.ops.lowbit.split_torchao(packed.detach())


# --- Editing a program ----------------------------------------------------------------------------


@dataclass
class _Edit:
    """A program that is being changed: new constants, and the old ones that may go."""

    program: ExportedProgram
    renamed: dict[str, str] = field(default_factory=dict)  # nodes: old name -> new name

    def __post_init__(self):
        signature = self.program.graph_signature
        self.graph = self.program.graph_module.graph
        self.placeholders = {n.name: n for n in self.graph.nodes if n.op == "placeholder"}
        self.specs = list(signature.input_specs)
        self.tensors = {**self.program.constants, **self.program.state_dict}
        self.added: dict[str, Tensor] = {}
        self.sources: set[int] = set()  # the addresses of what was repacked
        self._made: dict[tuple, fx.Node] = {}
        self._parts: dict[int, list[Tensor]] = {}
        values = [n.meta["val"] for n in self.placeholders.values()]
        self.fake_mode = torch._guards.detect_fake_mode(values)

    def traced(self, target, *arguments, **options) -> fx.Node:
        """Add a call whose value is found by running it on its arguments' values."""
        node = self.graph.call_function(target, arguments, options)
        node.meta["val"] = target(
            *(a.meta["val"] if isinstance(a, fx.Node) else a for a in arguments), **options
        )
        return node

    def contiguous(self, x: fx.Node) -> fx.Node:
        if is_contiguous_or_false(x.meta["val"]):
            return x
        clone = torch.ops.aten.clone.default
        return self.traced(clone, x, memory_format=torch.contiguous_format)

    def row(self, indices: fx.Node) -> fx.Node:
        """Return indices [T] as int64 [1, T], as `lowbit::embedding` takes them."""
        if indices.meta["val"].dtype != torch.int64:
            indices = self.traced(torch.ops.aten._to_copy.default, indices, dtype=torch.int64)
        return self.traced(torch.ops.aten.view.default, self.contiguous(indices), [1, -1])

    def packed_linear(self, packed: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        """Return the plain weight and the bias of a linear layer's packed weight."""
        tensor = self._tensor(packed)
        if tensor.data_ptr() not in self._parts:
            self._parts[tensor.data_ptr()] = _split(tensor)
        parts = self._parts[tensor.data_ptr()]
        weight = self.constant([packed], "weight", lambda _: parts[0])
        return weight, self.constant([packed], "bias", lambda _: parts[1]) if parts[1:] else None

    def constant(self, sources: list[fx.Node], name: str, make: Callable) -> fx.Node:
        """Add what `make` gives for the tensors of `sources`, as one constant wherever they are."""
        tensors = [self._tensor(source) for source in sources]
        key = (name, *(t.data_ptr() for t in tensors))
        if key not in self._made:
            self.sources |= {t.data_ptr() for t in tensors}
            self._made[key] = self._add(name, make(*tensors))
        return self._made[key]

    def _tensor(self, node: fx.Node) -> Tensor:
        spec = next((s for s in self.specs if getattr(s.arg, "name", "") == node.name), None)
        if spec is None or spec.target not in self.tensors:
            raise ValueError(f"{node.name}: a packed weight must be a constant to be repacked")
        return self.tensors[spec.target]

    def _add(self, name: str, tensor: Tensor) -> fx.Node:
        number = len(self.added)
        while (target := f"lowbit_{name}_{number}") in self.tensors:
            number += 1
        self.added[target] = self.tensors[target] = tensor
        first = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.TOKEN)
        at = next((i for i, s in enumerate(self.specs) if s.kind not in first), len(self.specs))
        with self.graph.inserting_before(self._placeholder_at(at)):
            node = self.graph.placeholder(f"b_{target}")
        node.meta["val"] = self.fake_mode.from_tensor(tensor, static_shapes=True)
        self.placeholders[node.name] = node
        argument = TensorArgument(name=node.name)
        self.specs.insert(at, InputSpec(InputKind.BUFFER, argument, target, persistent=True))
        return node

    def _placeholder_at(self, index: int) -> fx.Node:
        """Find the node that a placeholder is inserted before, to be the input at `index`."""
        if index < len(self.specs):
            return self.placeholders[self.specs[index].arg.name]
        return next(n for n in self.graph.nodes if n.op != "placeholder")

    def finished(self) -> ExportedProgram:
        """Return the changed program, without the repacked tensors that nothing else uses."""
        old = self.program
        state = {**old.state_dict, **self.added}
        constants = dict(old.constants)
        kept = []
        for spec in self.specs:
            tensor = self.tensors.get(spec.target) if spec.target else None
            node = self.placeholders.get(getattr(spec.arg, "name", None))
            repacked = isinstance(tensor, Tensor) and tensor.data_ptr() in self.sources
            if repacked and spec.target not in self.added and not node.users:
                self.graph.erase_node(node)
                state.pop(spec.target, None)
                constants.pop(spec.target, None)
            else:
                kept.append(spec)
        outputs = [
            replace(spec, arg=TensorArgument(self.renamed[spec.arg.name]))
            if getattr(spec.arg, "name", None) in self.renamed else spec
            for spec in old.graph_signature.output_specs
        ]  # fmt: skip
        self.graph.lint()
        return ExportedProgram(
            old.graph_module,
            self.graph,
            ExportGraphSignature(kept, outputs),
            state,
            old.range_constraints,
            old.module_call_graph,
            old.example_inputs,
            constants,
            verifiers=old.verifiers,
        )


def _packed_operator(target) -> tuple[str, int] | None:
    """Tell which of torchao's packed operators `target` is, and its bits."""
    if not isinstance(target, OpOverload) or target.namespace != "torchao":
        return None
    name = target._schema.name.removeprefix("torchao::")
    return next(
        ((pattern, bits) for pattern in ALL for bits in BIT_WIDTHS if pattern.format(bits) == name),
        None,
    )


def _arguments(node: fx.Node) -> dict:
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _check_submodules(module: fx.GraphModule) -> None:
    for part in module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            if _packed_operator(node.target):
                raise ValueError(f"{node.target} is inside a branch or loop: not rewritten")
