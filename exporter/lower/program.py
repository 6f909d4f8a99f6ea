"""Export the decoder as `ExportedProgram`s of dynamic length, one for each form of its caches.

On our operators it takes `tokens int64 [1, T]`, `segments int64 [S, 2]`, `rows int64 [R]` and `state int64
[1]`; its caches are the state's. On stock ones it takes `tokens`, `start_pos int64 [1]` and `rows`, and in
the form with cache inputs `k_0, v_0, k_1, v_1, ...` after them. All return float32 logits `[R, vocab]`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from exporter.lowbit.decoder import Decoder, LowbitTransformer
from exporter.model.decoder import Transformer

MAX_CHUNK = 256  # bounds the planned memory of the attention scores: heads * chunk * context
MAX_ROWS = MAX_CHUNK  # logits of a whole chunk, for scoring; memory is taken as rows are asked for
MAX_SEGMENTS = 64


@dataclass(frozen=True)
class ForwardLimits:
    """The largest T, R and S of one forward."""

    max_chunk: int
    max_rows: int
    max_segments: int


def forward_limits(model: Decoder) -> ForwardLimits:
    """Return the largest T, R and S that programs of `model` take."""
    if isinstance(model, LowbitTransformer):
        return ForwardLimits(MAX_CHUNK, MAX_ROWS, MAX_SEGMENTS)
    max_chunk = min(MAX_CHUNK, model.max_seq_length)
    return ForwardLimits(max_chunk, min(MAX_ROWS, max_chunk), 1)


class BufferCaches(nn.Module):
    """The decoder with its KV caches as mutable buffers, for ExecuTorch."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model
        caches = model.new_caches()
        self.names = [f"{kind}_{i}" for i in range(len(caches) // 2) for kind in ("k", "v")]
        for name, cache in zip(self.names, caches, strict=True):
            self.register_buffer(name, cache, persistent=False)

    def forward(self, tokens: Tensor, start_pos: Tensor, rows: Tensor) -> Tensor:
        return self.model(tokens, start_pos, rows, [getattr(self, name) for name in self.names])


class InputCaches(nn.Module):
    """The decoder with its KV caches as inputs mutated in place, for AOTInductor."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, start_pos: Tensor, rows: Tensor, *caches: Tensor) -> Tensor:
        return self.model(tokens, start_pos, rows, caches)


def export_buffer_caches(model: Transformer) -> ExportedProgram:
    """Export the program whose KV caches, in the model's dtype, are mutable buffers."""
    return _export_stock(BufferCaches(model), forward_limits(model), ())


def export_input_caches(model: Transformer) -> ExportedProgram:
    """Export the program whose KV caches, in the model's dtype, are inputs."""
    return _export_stock(InputCaches(model), forward_limits(model), tuple(model.new_caches()))


def export_stateful(model: LowbitTransformer) -> ExportedProgram:
    """Export the program on our operators, whose caches are a state's."""
    return _export_stateful(torch.export.export, model)


def export_functional(model: LowbitTransformer) -> ExportedProgram:
    """Export the program of `export_stateful` in functional form: what `run_decompositions({})` would make of
    it, less the state that it would return.

    torch 2.13's `_export` traces once for that, where the public way traces twice.
    """
    from torch.export._trace import _export as trace_export

    trace = functools.partial(trace_export, pre_dispatch=False)
    return without_state_output(_export_stateful(trace, model))


def without_state_output(program: ExportedProgram) -> ExportedProgram:
    """Take the mutated state out of a functional program's outputs, in place.

    It is a handle, which no operator changes: schemas say `Tensor(a!)` so that nothing deletes or reorders
    calls, and lowering would copy it back into the input.
    """
    signature = program.graph_signature
    kept = [i for i, spec in enumerate(signature.output_specs)
            if spec.kind != OutputKind.USER_INPUT_MUTATION]  # fmt: skip
    (output,) = program.graph.find_nodes(op="output")
    output.args = (tuple(output.args[0][i] for i in kept),)
    signature.output_specs[:] = [signature.output_specs[i] for i in kept]
    program.graph_module.recompile()
    return program


def _export_stateful(
    trace: Callable[..., ExportedProgram], model: LowbitTransformer
) -> ExportedProgram:
    bounds = forward_limits(model)
    inputs = (
        torch.zeros(1, 8, dtype=torch.int64),
        torch.zeros(3, 2, dtype=torch.int64),
        torch.zeros(5, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
    )
    shapes = {
        "tokens": _dynamic(1, "chunk", bounds.max_chunk),
        "segments": _dynamic(0, "segments", bounds.max_segments),
        "rows": _dynamic(0, "rows", bounds.max_rows),
        "state": {},
    }
    with torch.no_grad():
        return trace(model, inputs, dynamic_shapes=shapes, strict=False)


def _export_stock(
    module: nn.Module, bounds: ForwardLimits, caches: tuple[Tensor, ...]
) -> ExportedProgram:
    example_chunk, example_rows = min(8, bounds.max_chunk), min(3, bounds.max_rows)
    inputs = (
        torch.zeros(1, example_chunk, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(example_rows, dtype=torch.int64),
        *caches,
    )
    shapes = {
        "tokens": _dynamic(1, "chunk", bounds.max_chunk),
        "start_pos": {},
        "rows": _dynamic(0, "rows", bounds.max_rows),
    }
    if caches:
        shapes["caches"] = tuple({} for _ in caches)
    with torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def _dynamic(dim: int, name: str, most: int) -> dict[int, Dim]:
    """Make a dimension of 1 to `most`; a context of one position has nothing that could vary."""
    return {dim: Dim(name, min=1, max=most)} if most > 1 else {}
