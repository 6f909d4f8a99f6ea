"""Export the decoder as `ExportedProgram`s of dynamic length, one for each cache form.

Both take `tokens int64 [1, T]`, `start_pos int64 [1]` and `rows int64 [R]`, and return float32
logits `[R, vocab]` of the chunk's positions `rows`. The form with cache inputs takes
`k_0, v_0, k_1, v_1, ...` after them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from exporter.lowbit.decoder import Decoder, LowbitTransformer

MAX_CHUNK = 256  # bounds the planned memory of the attention scores: heads * chunk * context
MAX_ROWS = MAX_CHUNK  # logits of a whole chunk, for scoring; memory is taken as rows are asked for


@dataclass(frozen=True)
class ForwardLimits:
    """The largest T and R of one forward."""

    max_chunk: int
    max_rows: int


def forward_limits(model: Decoder) -> ForwardLimits:
    """Return the largest T and R that programs of `model` take."""
    max_chunk = min(MAX_CHUNK, model.max_seq_length)
    return ForwardLimits(max_chunk, min(MAX_ROWS, max_chunk))


class BufferCaches(nn.Module):
    """The decoder with its KV caches as mutable buffers, for ExecuTorch."""

    def __init__(self, model: Decoder):
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

    def __init__(self, model: Decoder):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, start_pos: Tensor, rows: Tensor, *caches: Tensor) -> Tensor:
        return self.model(tokens, start_pos, rows, caches)


def export_buffer_caches(model: Decoder) -> ExportedProgram:
    """Export the program whose KV caches, in the model's dtype, are mutable buffers."""
    return _export(torch.export.export, BufferCaches(model), forward_limits(model), ())


def export_functional(model: LowbitTransformer) -> ExportedProgram:
    """Export the program of `export_buffer_caches` in functional form: what `run_decompositions({})` would
    make of it.

    torch 2.13's `_export` traces once for that, where the public way traces twice.
    """
    from torch.export._trace import _export as trace_export

    trace = functools.partial(trace_export, pre_dispatch=False)
    return _export(trace, BufferCaches(model), forward_limits(model), ())


def export_input_caches(model: Decoder) -> ExportedProgram:
    """Export the program whose KV caches, in the model's dtype, are inputs."""
    return _export(torch.export.export, InputCaches(model), forward_limits(model), tuple(model.new_caches()))


def _export(
    trace: Callable[..., ExportedProgram],
    module: nn.Module,
    bounds: ForwardLimits,
    caches: tuple[Tensor, ...],
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
        return trace(module, inputs, dynamic_shapes=shapes, strict=False)


def _dynamic(dim: int, name: str, most: int) -> dict[int, Dim]:
    """Make a dimension of 1 to `most`; a context of one position has nothing that could vary."""
    return {dim: Dim(name, min=1, max=most)} if most > 1 else {}
