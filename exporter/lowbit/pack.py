"""Packed matrices: their modules, and how weights become them.

Queries, keys and values are one matrix, and so are gate and up; a tied output has the embedding's table where
both ask for the same format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from exporter.lowbit.joined_rows import JoinedRows
from exporter.lowbit.on_disk import Keep, in_memory
from exporter.lowbit.weights import QuantizedWeight, can_share, quantize_embedding, quantize_linear
from exporter.model.decoder import Transformer
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import (
    TOKEN_SCALE_SCHEMES,
    WEIGHT_ONLY_SCHEMES,
    EmbeddingScheme,
    LinearScheme,
)
from exporter.util.progress import Report


@dataclass(frozen=True)
class PackOptions:
    """The formats of packed weights: `recipe`'s schemes, `dtype` where it has none. `found` are
    matrices that are quantized already, by their names: `layers.0.wqkv`, ..., `output`. `keep` moves a
    packed matrix to where it stays until it is written."""

    recipe: Recipe
    dtype: torch.dtype
    found: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    keep: Keep = in_memory


class PackedLinear(nn.Module):
    """y [T, N] = x [T, K] weight^T + bias on packed bytes; a subclass for each operator.

    With `experts` the weight has as many matrices of N rows, one after the other, and `routes` say which
    rows of x are whose.
    """

    kernel = ""  # of the operators linear_KERNEL and experts_KERNEL
    options: tuple[bool, ...] = ()  # their last arguments

    def __init__(self, weight: Tensor, bias: Tensor | None, out_features: int, experts: int | None = None):
        super().__init__()
        self.out_features, self.experts = out_features, experts
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x_TK: Tensor, routes: Tensor | None = None) -> Tensor:
        if self.experts is None:
            operator = getattr(torch.ops.lowbit, f"linear_{self.kernel}")
            return operator(x_TK, self.weight, self.bias, self.out_features, *self.options)
        operator = getattr(torch.ops.lowbit, f"experts_{self.kernel}")
        return operator(
            x_TK, self.weight, self.bias, routes, self.experts, self.out_features, *self.options
        )


class LinearA8wx(PackedLinear):
    kernel, options = "a8wx", (False,)


class LinearA8wxByToken(LinearA8wx):
    options = (True,)


class LinearWx(PackedLinear):
    kernel = "wx"


class LinearFp(PackedLinear):
    kernel = "fp"


def pack_linear(
    layers: list[nn.Linear], options: PackOptions, name: str, experts: int | None = None
) -> PackedLinear:
    """The layers' rows, one after the other, as one, or as those of `experts`; their weights are given up."""
    bias = _biases(layers)
    if name in options.found:
        return _module(options.found[name], options.recipe.linear, bias, options.keep, experts)
    packed = _pack(JoinedRows([layer.weight.detach() for layer in layers]), bias, options, name, experts)
    for layer in layers:
        layer.weight = None
    return packed


def pack_router(router: nn.Linear, options: PackOptions) -> PackedLinear:
    """The matrix that chooses experts: small, and an error of its chooses others. It is as the checkpoint has
    it, or as a float model's matrices are."""
    dtype = router.weight.dtype if options.recipe.is_quantized() else options.dtype
    weight = options.keep(_pack_float(router.weight.detach(), dtype))
    return LinearFp(weight, _biases([router]), router.out_features)


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
        output = _module(options.found["output"], linear, bias, options.keep)
    else:
        output = _pack(model.output.weight.detach(), bias, options, "output")
    if shares_table(model, linear, embedding):
        return output, output.weight
    if embedding is None:
        table = options.keep(_pack_float(weight, options.dtype))
    else:
        table = options.keep(pack_integers(quantize_embedding(weight, embedding)))
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


def _pack(
    weight: Tensor | JoinedRows,
    bias: Tensor | None,
    options: PackOptions,
    name: str,
    experts: int | None = None,
) -> PackedLinear:
    scheme = options.recipe.linear
    if scheme is None:
        packed = options.keep(_pack_float(weight[:], options.dtype))
        return LinearFp(packed, bias, len(weight) // (experts or 1), experts)
    own = scheme.for_layer(name)
    return _module(quantize_linear(weight, own), own, bias, options.keep, experts)


def _module(
    q: QuantizedWeight, scheme: LinearScheme, bias: Tensor | None, keep: Keep, experts: int | None = None
) -> PackedLinear:
    kind = linear_kind(True, scheme.key in WEIGHT_ONLY_SCHEMES, scheme.key in TOKEN_SCALE_SCHEMES)
    return kind(keep(pack_integers(q)), bias, len(q.values) // (experts or 1), experts)


def linear_kind(integers: bool, weights_only: bool, token_scales: bool) -> type[PackedLinear]:
    """The operator of packed integers or floats; activations stay float with `weights_only`, else they are
    quantized with a scale a token or a group."""
    if not integers:
        return LinearFp
    if weights_only:
        return LinearWx
    return LinearA8wxByToken if token_scales else LinearA8wx


def _pack_float(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.ops.lowbit.pack_float(weight.float().contiguous(), dtype)


def float_copy(weight: Tensor) -> Tensor:
    """float32, not a view that would keep a checkpoint's file mapped."""
    return weight.detach().to(torch.float32, copy=True)


def _biases(layers: list[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat([
        torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float()
        for layer in layers
    ])  # fmt: skip
