"""The decoder on the project's own operators: `model.Transformer`'s weights, packed.

Activations are float32. Queries, keys and values are one matrix, and so are gate and up; a tied
output has the embedding's table where both ask for the same format.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from exporter.formats.packed_header import is_packed, read_matrix
from exporter.lowbit import ops
from exporter.lowbit.pack import (
    PackedLinear,
    PackOptions,
    float_copy,
    pack_head,
    pack_linear,
    pack_output,
    pack_router,
)
from exporter.lowbit.state import State, StateLayout
from exporter.model.block import Operations, run_layer
from exporter.model.config import AttentionSpec, LayerSpec, ModelConfig
from exporter.model.decoder import Block, CacheSession, Transformer
from exporter.model.matrices import last_norm, layer_vectors
from exporter.recipe.model_limits import check_head_widths
from exporter.util.progress import Progress, Report


class LowbitBlock(nn.Module):
    """One layer: `linears` and `vectors` (float32 buffers) by the names of `model.matrices`."""

    def __init__(
        self, layer: LayerSpec, eps: float, linears: Mapping[str, PackedLinear], vectors: Mapping[str, Tensor]
    ):
        super().__init__()
        self.layer, self.eps = layer, eps
        for name, linear in linears.items():
            self.add_module(name, linear)
        for name, vector in vectors.items():
            self.register_buffer(name, vector)

    def linear(self, matrix: str, x_TK: Tensor, routes: Tensor | None = None) -> Tensor:
        return self.get_submodule(matrix)(x_TK, routes)

    def forward(self, x_TD: Tensor, ops: Operations[Tensor]) -> Tensor:
        return run_layer(self.layer, ops, x_TD, self.linear, torch.ops.lowbit.add)


@dataclass(frozen=True)
class LowbitOperations:
    """A layer's operations as `torch.ops.lowbit` has them; `number` is the layer's in the state, of which
    `state` int64 [1] is the handle. `segments` int64 [S, 2] are those of the forward."""

    block: LowbitBlock
    number: int
    segments: Tensor
    state: Tensor

    def norm(self, name: str, x_TD: Tensor) -> Tensor:
        block = self.block
        return normed(block.layer, dict(block.named_buffers(recurse=False)), name, x_TD, block.eps)

    def attend(self, qkv: Tensor) -> Tensor:
        spec, vectors = self.block.layer.attention, dict(self.block.named_buffers(recurse=False))
        return torch.ops.lowbit.attention(
            qkv, self.segments, self.state,
            vectors.get("q_norm"), vectors.get("k_norm"), vectors.get("sinks"),
            self.number, spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.window or 0,
            spec.rope is not None and spec.rope.interleaved, spec.gated,
            self.block.eps, score_scale(spec), spec.softcap or 0.0,
        )  # fmt: skip

    def activate(self, gate_up: Tensor) -> Tensor:
        spec, lowbit = self.block.layer.feed_forward, torch.ops.lowbit
        if spec.gated:
            offset = (spec.up_offset,) if spec.activation == "quick_gelu" else ()
            return getattr(lowbit, f"{spec.activation}_mul")(gate_up, spec.limit or 0.0, *offset)
        parameters = () if spec.xielu is None else astuple(spec.xielu)
        return getattr(lowbit, spec.activation)(gate_up, *parameters)

    def route(self, logits_TE: Tensor) -> Tensor:
        experts = self.block.layer.feed_forward.experts
        return torch.ops.lowbit.route(logits_TE, experts.chosen, experts.renormalize)

    def dispatch(self, x_TD: Tensor, routes: Tensor) -> Tensor:
        experts = self.block.layer.feed_forward.experts
        return torch.ops.lowbit.dispatch(x_TD, routes, experts.count, experts.chosen)

    def combine(self, y: Tensor, routes: Tensor) -> Tensor:
        return torch.ops.lowbit.combine(y, routes, self.block.layer.feed_forward.experts.count)


class LowbitTransformer(nn.Module):
    """`Transformer` on packed weights, for tokens of several sessions of a `State`."""

    def __init__(
        self, model: Transformer, options: PackOptions, cache_dtype: str, report: Report
    ):
        super().__init__()
        ops.load()
        config = self.config = model.config
        check_head_widths(config)
        self.max_seq_length = model.max_seq_length  # of its sessions, where nobody says otherwise
        self.cache_dtype = cache_dtype  # the same; one of CACHE_TYPES
        layers, progress = [], Progress(config.n_layers)
        for i in range(config.n_layers):
            layers.append(pack_block(model.layers[i], config, options, i))
            report(progress.line("packing: layer", i + 1))
        self.layers = nn.ModuleList(layers)
        self.head = None if model.head is None else pack_head(model.head, options)
        self.output, table = pack_output(model, options, report)
        self.register_buffer("table", table)
        for vector in last_norm(config):
            self.register_buffer(vector.name, float_copy(model.get_parameter(vector.parameter)))

    def forward(self, tokens: Tensor, segments: Tensor, rows: Tensor, state: Tensor) -> Tensor:
        """Logits of some tokens of a forward.

        Args:
            tokens: int64 [1, T], those of all segments, one after the other.
            segments: int64 [S, 2], the session and the number of tokens of each.
            rows: int64 [R], which of the T tokens' logits to compute.
            state: int64 [1], the handle of a state of `state_layout()`.

        Returns: float32 [R, V].
        """
        lowbit, config = torch.ops.lowbit, self.config
        x_TD = embed(config, self.table, tokens)
        for i, block in enumerate(self.layers):
            x_TD = block(x_TD, LowbitOperations(block, i, segments, state))
        vectors = dict(self.named_buffers(recurse=False))
        x_RD = normed(config.layers[-1], vectors, "norm", lowbit.select_rows(x_TD, rows), config.norm_eps)
        if self.head is not None:
            x_RD = self.head(x_RD)
        logits_RV, cap = self.output(x_RD), config.logit_softcap
        return logits_RV if cap is None else lowbit.softcap(logits_RV, cap)

    def state_layout(self) -> StateLayout:
        return StateLayout.of(self.config)

    def new_session(self) -> "StateSession":
        return StateSession(self)


class StateSession:
    """One conversation with a `LowbitTransformer`, alone in a state of its own."""

    def __init__(self, model: LowbitTransformer):
        self.model = model
        self._state = State(model.state_layout(), model.max_seq_length, model.cache_dtype)
        self._session = self._state.open()

    def read(
        self, tokens: Tensor, start: int, rows: Tensor, forward: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """As `CacheSession.read`."""
        self._state.rewind(self._session, start)
        segments = torch.tensor([[self._session, tokens.shape[1]]])
        with self._state.forward(segments):
            return (forward or self.model)(tokens, segments, rows, self._state.tensor)


Decoder = Transformer | LowbitTransformer
DecoderSession = CacheSession | StateSession


def embed(config: ModelConfig, table: Tensor, tokens: Tensor) -> Tensor:
    """Return what the first layer reads, float32 [T, D], of tokens int64 [1, T]."""
    return torch.ops.lowbit.embedding(table, tokens, config.dim, config.embedding_scale)


def normed(layer: LayerSpec, vectors: Mapping[str, Tensor], name: str, x_TD: Tensor, eps: float) -> Tensor:
    """Return a norm of x, with the weight `name` of `vectors`, of the layer's kind."""
    if layer.norm == "rms":
        return torch.ops.lowbit.rms_norm(x_TD, vectors[name], eps)
    return torch.ops.lowbit.layer_norm(x_TD, vectors[name], vectors.get(f"{name}_bias"), eps)


def layout_version(model: nn.Module) -> int:
    """The first of kernels/layout.h that reads all packed weights of `model`; 1 where it has none."""
    found = [1]
    for name, buffer in model.named_buffers():
        if buffer.dtype == torch.uint8 and is_packed(data := memoryview(buffer.numpy())):
            found.append(read_matrix(data, name).version)
    return max(found)


def model_digest(model: LowbitTransformer) -> str:
    """The SHA-256 of the configuration, of the layers' kinds, and of all buffers by name: two models of one
    digest give the same logits."""
    kinds = [(name, type(module).__name__) for name, module in model.named_modules()]
    digest = hashlib.sha256(f"{model.config} {kinds}".encode())
    for name, buffer in sorted(model.named_buffers()):
        digest.update(f"{name} {tuple(buffer.shape)} {buffer.dtype}".encode())
        digest.update(buffer.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def score_scale(spec: AttentionSpec) -> float:
    """Return the factor of attention's scores. Where the model does not say, it is 1 / sqrt(head_dim), and
    rounded to float32 at each step, as the operator's first version computed it."""
    if spec.scale is not None:
        return spec.scale
    return float(np.float32(1) / np.sqrt(np.float32(spec.head_dim)))


def pack_block(block: Block, config: ModelConfig, options: PackOptions, number: int) -> LowbitBlock:
    """Layer `number`; takes the weights out of `block`."""
    linears = {}
    for name, matrix in block.matrices.items():
        if matrix.is_router:
            linears[name] = pack_router(*block.sources(name), options)
        else:
            where = f"layers.{number}.{name}"
            linears[name] = pack_linear(block.sources(name), options, where, matrix.experts)
    state = block.state_dict()
    vectors = {v.name: float_copy(state[v.parameter]) for v in layer_vectors(block.layer, config.dim)}
    return LowbitBlock(block.layer, config.norm_eps, linears, vectors)
