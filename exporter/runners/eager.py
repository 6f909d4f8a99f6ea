"""Run a prepared decoder by PyTorch, behind the interface of the native runners.

`--compile` compiles the forward of one token, `--compile-prefill` that of a chunk too, of dynamic
length (gpt-fast's and torchchat's meaning of them).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from exporter.artifact.runner_interface import Forward, RunnerModel
from exporter.lower.cxx_compiler import InductorCompiler
from exporter.runners.native import make_python_model

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from exporter.lowbit.decoder import DecoderSession
    from exporter.pipeline.prepare import Prepared


def eager_model(
    prepared: "Prepared", compile: bool = False, compile_prefill: bool = False, threads: int = 0
) -> RunnerModel:
    """Make a model whose forward is `prepared.model`, of one session.

    Args:
        compile: run the forward of one token through torch.compile, at its first call.
        compile_prefill: run that of a chunk through torch.compile, at its first call.
        threads: PyTorch's, in this whole process, and the native code's (0: as they are).

    Raises FileNotFoundError when the runner's library is not built, and ValueError for metadata that
    it refuses.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    decoder = prepared.model
    one = many = decoder
    if compile or compile_prefill:
        compiler = InductorCompiler.make_for_process()
        if compile:
            one = _compiled(decoder, compiler, dynamic=False)
        if compile_prefill:
            many = _compiled(decoder, compiler, dynamic=True)
    forward = _forward(decoder.new_session(), one, many)
    return make_python_model(prepared.metadata.to_strings(), forward, threads)


def _compiled(
    decoder: "torch.nn.Module", compiler: InductorCompiler, dynamic: bool
) -> Callable[..., "Tensor"]:
    import torch

    function = torch.compile(decoder, dynamic=dynamic, options=compiler.options())

    def call(*inputs: object) -> "Tensor":
        with compiler.used():  # compiled at the first call, and again for other shapes
            return function(*inputs)

    return call


def _forward(
    session: "DecoderSession", one: Callable[..., "Tensor"], many: Callable[..., "Tensor"]
) -> Forward:
    import torch

    from exporter.lowbit import ops

    def forward(tokens: "np.ndarray", start_pos: int, rows: "np.ndarray") -> "np.ndarray":
        decoder = one if len(tokens) == 1 else many
        ids, wanted = torch.from_numpy(tokens)[None], torch.from_numpy(rows)
        with ops.errors_told(), torch.no_grad():
            return session.read(ids, start_pos, wanted, decoder).contiguous().numpy()

    return forward
