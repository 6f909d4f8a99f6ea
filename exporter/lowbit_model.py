"""The decoder on the project's own operators: `model.Transformer`'s weights, packed.

Activations are float32. Queries, keys and values are one matrix, and so are gate and up; a tied
output has the embedding's table where both ask for the same format.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from exporter import ops
from exporter.config import ModelConfig
from exporter.lowbit_weights import (
    QuantizedWeight,
    can_share,
    quantize_embedding,
    quantize_linear,
)
from exporter.model import Block, Transformer, rope_angles
from exporter.packed_header import is_packed, read_matrix
from exporter.recipe import Recipe
from exporter.schemes import EmbeddingScheme, LinearScheme

Report = Callable[[str], None]
BLOCK = 16  # positions in a block of the cache
MAX_HEAD_DIM = 512  # of the attention operator
TOKEN_SCALES = ("linear:a8w4dq", "linear:a8wxdq")  # activations as torchao quantizes them


@dataclass(frozen=True)
class PackOptions:
    """What the packed weights are: `recipe`'s schemes, `dtype` where it has none. `found` are
    matrices that are quantized already, by their names: `layers.0.wqkv`, ..., `output`."""

    recipe: Recipe
    dtype: torch.dtype
    found: Mapping[str, QuantizedWeight] = field(default_factory=dict)


class PackedLinear(nn.Module):
    """y [T, N] = x [T, K] weight^T + bias on packed bytes; a subclass for each operator."""

    def __init__(self, weight: Tensor, bias: Tensor | None, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)


class LinearA8wx(PackedLinear):
    token_scales = False

    def forward(self, x_TK: Tensor) -> Tensor:
        return torch.ops.lowbit.linear_a8wx(
            x_TK, self.weight, self.bias, self.out_features, self.token_scales
        )


class LinearA8wxByToken(LinearA8wx):
    token_scales = True


class LinearWx(PackedLinear):
    def forward(self, x_TK: Tensor) -> Tensor:
        return torch.ops.lowbit.linear_wx(x_TK, self.weight, self.bias, self.out_features)


class LinearFp(PackedLinear):
    def forward(self, x_TK: Tensor) -> Tensor:
        return torch.ops.lowbit.linear_fp(x_TK, self.weight, self.bias, self.out_features)


class LowbitBlock(nn.Module):
    """One layer; takes the weights out of `block`."""

    def __init__(self, block: Block, config: ModelConfig, options: PackOptions, name: str):
        super().__init__()
        self.heads, self.kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim, self.window = config.head_dim, config.sliding_window or 0
        self.eps, self.scale = config.norm_eps, attention_scale(config.head_dim)
        attention, ffn = block.attention, block.feed_forward
        self.wqkv = pack_linear([attention.wq, attention.wk, attention.wv], options, f"{name}.wqkv")
        self.wo = pack_linear([attention.wo], options, f"{name}.wo")
        self.gate_up = pack_linear([ffn.w1, ffn.w3], options, f"{name}.gate_up")
        self.down = pack_linear([ffn.w2], options, f"{name}.down")
        self.register_buffer("attention_norm", _copied(block.attention_norm.weight))
        self.register_buffer("ffn_norm", _copied(block.ffn_norm.weight))

    def forward(
        self,
        x_TD: Tensor,
        start_pos: Tensor,
        rope: tuple[Tensor, Tensor],
        k_cache: Tensor,
        v_cache: Tensor,
    ) -> Tensor:
        lowbit = torch.ops.lowbit
        qkv = self.wqkv(lowbit.rms_norm(x_TD, self.attention_norm, self.eps))
        y = lowbit.attention(
            qkv, *rope, k_cache, v_cache, start_pos, None, None, None,
            self.heads, self.kv_heads, self.head_dim, self.window, False, False,
            0.0, self.scale, 0.0,
        )  # fmt: skip
        x_TD = lowbit.add(x_TD, self.wo(y))
        gate_up = self.gate_up(lowbit.rms_norm(x_TD, self.ffn_norm, self.eps))
        return lowbit.add(x_TD, self.down(lowbit.silu_mul(gate_up, 0.0)))


class LowbitTransformer(nn.Module):
    """`Transformer` with the same `forward`; its caches are those of `cache_shape`."""

    def __init__(
        self, model: Transformer, options: PackOptions, cache_dtype: torch.dtype, report: Report
    ):
        super().__init__()
        ops.load()
        config = self.config = model.config
        if config.head_dim > MAX_HEAD_DIM:
            raise ValueError(
                f"heads of width {config.head_dim} are wider than the lowbit kernels' "
                f"{MAX_HEAD_DIM}; use --delegate stock"
            )
        self.max_seq_length = model.max_seq_length
        self.cache_dtype = cache_dtype
        layers, start = [], time.monotonic()
        for i in range(config.n_layers):
            layers.append(LowbitBlock(model.layers[i], config, options, f"layers.{i}"))
            left = (time.monotonic() - start) / (i + 1) * (config.n_layers - i - 1)
            report(f"packing: layer {i + 1} of {config.n_layers}, {left:.0f} s left")
        self.layers = nn.ModuleList(layers)
        self.head = None if model.head is None else pack_head(model.head, options)
        self.output, table = pack_output(model, options, report)
        self.register_buffer("table", table)
        self.register_buffer("norm", _copied(model.norm.weight))
        angles = rope_angles(config, self.max_seq_length)
        self.register_buffer("rope_cos", angles.cos())
        self.register_buffer("rope_sin", angles.sin())

    def forward(
        self, tokens: Tensor, start_pos: Tensor, rows: Tensor, caches: Sequence[Tensor]
    ) -> Tensor:
        """As `Transformer.forward`."""
        lowbit = torch.ops.lowbit
        x_TD = lowbit.embedding(self.table, tokens, self.config.dim, 1.0)
        rope = (self.rope_cos, self.rope_sin)
        for layer, k_cache, v_cache in zip(self.layers, caches[0::2], caches[1::2], strict=True):
            x_TD = layer(x_TD, start_pos, rope, k_cache, v_cache)
        x_RD = lowbit.rms_norm(lowbit.select_rows(x_TD, rows), self.norm, self.config.norm_eps)
        if self.head is not None:
            x_RD = self.head(x_RD)
        return self.output(x_RD)

    def new_caches(self) -> list[Tensor]:
        shape = cache_shape(self.config, self.max_seq_length, self.cache_dtype)
        return [torch.zeros(shape, dtype=self.cache_dtype) for _ in range(2 * len(self.layers))]


def attention_scale(head_dim: int) -> float:
    """What scores are multiplied by where a model does not say: 1 / sqrt(head_dim), rounded to float32
    at each step."""
    return (1 / torch.tensor(float(head_dim)).sqrt()).item()


def layout_version(model: nn.Module) -> int:
    """The first of kernels/layout.h that reads all packed weights of `model`; 1 where it has none."""
    found = [1]
    for name, buffer in model.named_buffers():
        if buffer.dtype == torch.uint8 and is_packed(data := memoryview(buffer.numpy())):
            found.append(read_matrix(data, name).version)
    return max(found)


def cache_shape(config: ModelConfig, length: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """[K, blocks, elements of a block]: `kernels/lowbit.h`, Cache."""
    padded = -(-config.head_dim // 16) * 16
    scales = 4 * BLOCK if dtype == torch.int8 else 0
    return config.n_kv_heads, -(-length // BLOCK), BLOCK * padded + scales


def pack_linear(layers: list[nn.Linear], options: PackOptions, name: str) -> PackedLinear:
    """The layers' rows, one after the other, as one; their weights are given up."""
    bias, n = _biases(layers), sum(layer.out_features for layer in layers)
    if name in options.found:
        return _module(options.found[name], options.recipe.linear, bias, n)
    weight = torch.cat([layer.weight.detach() for layer in layers])
    for layer in layers:
        layer.weight = None
    return _pack(weight, bias, options, name)


def pack_head(head: nn.Linear, options: PackOptions) -> PackedLinear:
    """The matrix before a tied output: small, and every logit depends on it. Integers would round its
    inputs once more, which at 8 bits costs half again of the KL; so it is float16 at the least."""
    dtype = torch.float16 if options.recipe.is_quantized() else options.dtype
    return LinearFp(_pack_float(head.weight.detach(), dtype), None, head.out_features)


def pack_output(
    model: Transformer, options: PackOptions, report: Report
) -> tuple[PackedLinear, Tensor]:
    """The output layer and the embedding's table, which are one where that changes nothing."""
    tied = model.output.weight is model.tok_embeddings.weight
    linear, embedding = options.recipe.linear, options.recipe.embedding
    weight, bias = model.tok_embeddings.weight.detach(), _biases([model.output])
    if "output" in options.found:
        output = _module(options.found["output"], linear, bias, len(weight))
    else:
        output = _pack(model.output.weight.detach(), bias, options, "output")
    if shares_table(model, linear, embedding):
        return output, output.weight
    if embedding is None:
        table = _pack_float(weight, options.dtype)
    else:
        table = pack_integers(quantize_embedding(weight, embedding))
    if tied:
        saved = min(table.nbytes, output.weight.nbytes) / 1e6
        report(
            "note: embedding and output are tied but ask for different formats, so both are "
            f"stored; the same format for both saves {saved:.0f} MB"
        )
    return output, table


def pack_integers(q: QuantizedWeight) -> Tensor:
    """The packed bytes uint8 [bytes] of `kernels/layout.h`."""
    form = q.format
    if form.bits_from_row:
        return torch.ops.lowbit.pack_stack([pack_integers(part) for part in q.parts()])
    return torch.ops.lowbit.pack_integer(
        q.values, q.scales, q.zeros, form.bits, form.group_size, form.zeros,
        form.scale_dtype == "int8",
    )  # fmt: skip


def shares_table(
    model: Transformer, linear: LinearScheme | None, embedding: EmbeddingScheme | None
) -> bool:
    """Whether `model`, packed so, has one table for embedding and output."""
    if model.output.weight is not model.tok_embeddings.weight:
        return False
    if linear is None or embedding is None:
        return linear is embedding
    return can_share(linear, embedding, model.config.dim)


def _pack(weight: Tensor, bias: Tensor | None, options: PackOptions, name: str) -> PackedLinear:
    scheme = options.recipe.linear
    if scheme is None:
        return LinearFp(_pack_float(weight, options.dtype), bias, len(weight))
    own = scheme.for_layer(name)
    return _module(quantize_linear(weight, own), own, bias, len(weight))


def _module(q: QuantizedWeight, scheme: LinearScheme, bias: Tensor | None, n: int) -> PackedLinear:
    packed = pack_integers(q)
    if scheme.key in ("linear:int4", "linear:int8"):
        return LinearWx(packed, bias, n)
    return (LinearA8wxByToken if scheme.key in TOKEN_SCALES else LinearA8wx)(packed, bias, n)


def _pack_float(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.ops.lowbit.pack_float(weight.float().contiguous(), dtype)


def _copied(weight: Tensor) -> Tensor:
    """float32, not a view that would keep a checkpoint's file mapped."""
    return weight.detach().to(torch.float32, copy=True)


def _biases(layers: list[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat([
        torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float()
        for layer in layers
    ])  # fmt: skip
