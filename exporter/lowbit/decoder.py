"""The decoder on the project's own operators: `model.Transformer`'s weights, packed.

Activations are float32. Queries, keys and values are one matrix, and so are gate and up; a tied
output has the embedding's table where both ask for the same format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
)
from exporter.model.block import Operations, run_layer
from exporter.model.config import AttentionSpec, LayerSpec, ModelConfig, Rope
from exporter.model.decoder import Block, Transformer
from exporter.model.matrices import layer_vectors
from exporter.model.rotary import rope_angles
from exporter.recipe.model_limits import check_head_widths
from exporter.util.progress import Progress, Report

BLOCK = 16  # positions in a block of the cache


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

    def linear(self, matrix: str, x_TK: Tensor) -> Tensor:
        return self.get_submodule(matrix)(x_TK)

    def forward(self, x_TD: Tensor, ops: Operations[Tensor]) -> Tensor:
        return run_layer(self.layer, ops, x_TD, self.linear, torch.ops.lowbit.add)


@dataclass(frozen=True)
class LowbitOperations:
    """A layer's operations as `torch.ops.lowbit` has them, with its rotary tables and its caches."""

    block: LowbitBlock
    start_pos: Tensor
    rope: tuple[Tensor | None, Tensor | None]  # cos and sin; None of a layer that rotates nothing
    k_cache: Tensor
    v_cache: Tensor

    def norm(self, name: str, x_TD: Tensor) -> Tensor:
        return torch.ops.lowbit.rms_norm(x_TD, self.block.get_buffer(name), self.block.eps)

    def attend(self, qkv: Tensor) -> Tensor:
        spec, vectors = self.block.layer.attention, dict(self.block.named_buffers(recurse=False))
        return torch.ops.lowbit.attention(
            qkv, *self.rope, self.k_cache, self.v_cache, self.start_pos,
            vectors.get("q_norm"), vectors.get("k_norm"), vectors.get("sinks"),
            spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.window or 0,
            spec.rope is not None and spec.rope.interleaved, spec.gated,
            self.block.eps, score_scale(spec), spec.softcap or 0.0,
        )  # fmt: skip

    def activate(self, gate_up: Tensor) -> Tensor:
        spec = self.block.layer.feed_forward
        product = getattr(torch.ops.lowbit, f"{spec.activation}_mul")
        return product(gate_up, spec.limit or 0.0)


class LowbitTransformer(nn.Module):
    """`Transformer` with the same `forward`; its caches are those of `cache_shape`."""

    def __init__(
        self, model: Transformer, options: PackOptions, cache_dtype: torch.dtype, report: Report
    ):
        super().__init__()
        ops.load()
        config = self.config = model.config
        check_head_widths(config)
        self.max_seq_length = model.max_seq_length
        self.cache_dtype = cache_dtype
        layers, progress = [], Progress(config.n_layers)
        for i in range(config.n_layers):
            layers.append(pack_block(model.layers[i], config, options, i))
            report(progress.line("packing: layer", i + 1))
        self.layers = nn.ModuleList(layers)
        self.head = None if model.head is None else pack_head(model.head, options)
        self.output, table = pack_output(model, options, report)
        self.register_buffer("table", table)
        self.register_buffer("norm", float_copy(model.norm.weight))
        self.rope_names = [rope_names(config, layer.attention.rope) for layer in config.layers]
        for name, table in rotary_tables(config, self.max_seq_length).items():
            self.register_buffer(name, table)

    def forward(
        self, tokens: Tensor, start_pos: Tensor, rows: Tensor, caches: Sequence[Tensor]
    ) -> Tensor:
        """As `Transformer.forward`."""
        lowbit, config = torch.ops.lowbit, self.config
        x_TD = embed(config, self.table, tokens)
        for i, block in enumerate(self.layers):
            rope = tuple(None if name is None else self.get_buffer(name) for name in self.rope_names[i])
            ops = LowbitOperations(block, start_pos, rope, *caches[2 * i : 2 * i + 2])
            x_TD = block(x_TD, ops)
        x_RD = lowbit.rms_norm(lowbit.select_rows(x_TD, rows), self.norm, config.norm_eps)
        if self.head is not None:
            x_RD = self.head(x_RD)
        return self.output(x_RD)

    def new_caches(self) -> list[Tensor]:
        length, dtype = self.max_seq_length, self.cache_dtype
        shapes = [cache_shape(layer.attention, length, dtype) for layer in self.config.layers]
        return [torch.zeros(shape, dtype=dtype) for shape in shapes for _ in range(2)]


Decoder = Transformer | LowbitTransformer


def embed(config: ModelConfig, table: Tensor, tokens: Tensor) -> Tensor:
    """Return what the first layer reads, float32 [T, D], of tokens int64 [1, T]."""
    return torch.ops.lowbit.embedding(table, tokens, config.dim, config.embedding_scale)


def layout_version(model: nn.Module) -> int:
    """The first of kernels/layout.h that reads all packed weights of `model`; 1 where it has none."""
    found = [1]
    for name, buffer in model.named_buffers():
        if buffer.dtype == torch.uint8 and is_packed(data := memoryview(buffer.numpy())):
            found.append(read_matrix(data, name).version)
    return max(found)


def cache_shape(spec: AttentionSpec, length: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """[K, blocks, elements of a block]: `kernels/lowbit.h`, Cache."""
    padded = -(-spec.head_dim // 16) * 16
    scales = 4 * BLOCK if dtype == torch.int8 else 0
    return spec.n_kv_heads, -(-length // BLOCK), BLOCK * padded + scales


def score_scale(spec: AttentionSpec) -> float:
    """Return the factor of attention's scores. Where the model does not say, it is 1 / sqrt(head_dim), and
    rounded to float32 at each step, as the operator's first version computed it."""
    if spec.scale is not None:
        return spec.scale
    return float(np.float32(1) / np.sqrt(np.float32(spec.head_dim)))


def rope_names(config: ModelConfig, rope: Rope | None) -> tuple[str, str] | tuple[None, None]:
    """The names of a rotation's tables; a model's second one has _1 behind its names, and so on."""
    if rope is None:
        return None, None
    number = config.ropes().index(rope)
    suffix = f"_{number}" if number else ""
    return f"rope_cos{suffix}", f"rope_sin{suffix}"


def rotary_names(config: ModelConfig) -> list[str]:
    """Return the name of every rotary table."""
    return [name for rope in config.ropes() for name in rope_names(config, rope)]


def rotary_tables(config: ModelConfig, length: int) -> dict[str, Tensor]:
    """The tables of `rope_names`, float32 [length, width / 2]."""
    tables = {}
    for rope in config.ropes():
        angles = rope_angles(rope, length)
        cos, sin = rope_names(config, rope)
        tables |= {cos: angles.cos(), sin: angles.sin()}
    return tables


def pack_block(block: Block, config: ModelConfig, options: PackOptions, number: int) -> LowbitBlock:
    """Layer `number`; takes the weights out of `block`."""
    linears = {
        name: pack_linear(block.sources(name), options, f"layers.{number}.{name}") for name in block.matrices
    }
    state = block.state_dict()
    vectors = {v.name: float_copy(state[v.parameter]) for v in layer_vectors(block.layer, config.dim)}
    return LowbitBlock(block.layer, config.norm_eps, linears, vectors)
