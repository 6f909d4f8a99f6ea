"""Quantize modules by a recipe, through torchao 0.18's `quantize_` with one config a scheme."""

import warnings
from collections.abc import Iterator

import torch
from torch import nn

from exporter.recipe.recipe import EmbeddingScheme, LinearScheme, Recipe
from exporter.util.progress import Report

# torchao looks for CUDA libraries that a CPU build lacks and says so on every import.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerAxis,
        PerGroup,
        quantize_,
    )

# What torchao packs for torch's CPU kernel `_weight_int4pack_mm_for_cpu`, largest first.
INT4_GROUPSIZES = (128, 64, 32)


def quantize(model: nn.Module, recipe: Recipe, report: Report) -> None:
    """Quantize `model` in place as `recipe` says; each layer's groups divide its width.

    `report` takes one line that names the layers whose group size had to be smaller.
    A tied output keeps its float weight when only the embedding is quantized, and the other way
    round: the two then no longer share a tensor.
    """
    if recipe.embedding is not None:
        _untie(model)
        _quantize_embedding(model, recipe.embedding, report)
    if recipe.linear is not None:
        _untie(model)
        _quantize_linear(model, recipe.linear, report)


def fitting_groupsize(width: int, groupsize: int, sizes: tuple[int, ...] | None = None) -> int:
    """Return the largest divisor of `width` that is at most `groupsize` and one of `sizes`.

    Without `sizes`, any multiple of 32. Raises ValueError when there is none.
    """
    candidates = sizes or range(min(groupsize, width) // 32 * 32, 0, -32)
    for candidate in candidates:
        if candidate <= groupsize and width % candidate == 0:
            return candidate
    raise ValueError(
        f"a layer of width {width} has no group size that is a multiple of 32; "
        "leave this model unquantized, or use linear:int8 with groupsize 0"
    )


def _quantize_linear(model: nn.Module, scheme: LinearScheme, report: Report) -> None:
    layers = [(name, m, m.in_features) for name, m in _modules(model, nn.Linear)]
    sizes = INT4_GROUPSIZES if scheme.key == "linear:int4" else None
    for groupsize, names in _by_groupsize(layers, scheme.groupsize, report, sizes).items():
        quantize_(model, linear_config(scheme.key, groupsize), lambda _, name, n=names: name in n)


def linear_config(key: str, groupsize: int):
    """Return the torchao config of one linear scheme. `groupsize` 0 = one scale an output channel."""
    if key == "linear:int8":
        granularity = PerGroup(groupsize) if groupsize else PerAxis(0)
        return IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=granularity)
    if key == "linear:a8w4dq":
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4,
            weight_granularity=PerGroup(groupsize),
            weight_mapping_type=MappingType.SYMMETRIC,
        )
    if key == "linear:int4":
        from torchao.prototype.quantization.int4.inference_workflow import (
            PrototypeInt4WeightOnlyConfig,
        )

        return PrototypeInt4WeightOnlyConfig(group_size=groupsize, set_inductor_config=False)
    raise ValueError(f'no torchao config for "{key}"')


def _quantize_embedding(model: nn.Module, scheme: EmbeddingScheme, report: Report) -> None:
    layers = [(name, m, m.embedding_dim) for name, m in _modules(model, nn.Embedding)]
    dtype = torch.int4 if scheme.bitwidth == 4 else torch.int8
    for groupsize, names in _by_groupsize(layers, scheme.groupsize, report).items():
        granularity = PerGroup(groupsize) if groupsize else PerAxis(0)
        config = IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity)
        quantize_(model, config, lambda _, name, n=names: name in n)


def _by_groupsize(
    layers: list[tuple[str, nn.Module, int]],
    groupsize: int,
    report: Report,
    sizes: tuple[int, ...] | None = None,
) -> dict[int, set[str]]:
    """Group layer names by the group size they can have; `report` gets one line for those that differ."""
    if groupsize == 0:
        return {0: {name for name, _, _ in layers}}
    groups: dict[int, set[str]] = {}
    for name, _, width in layers:
        groups.setdefault(fitting_groupsize(width, groupsize, sizes), set()).add(name)
    smaller = {size: names for size, names in groups.items() if size != groupsize}
    if smaller:
        parts = [f"{size} for {_summary(names)}" for size, names in sorted(smaller.items())]
        report(f"groupsize {groupsize} does not divide every layer's width: {'; '.join(parts)}")
    return groups


def _summary(names: set[str]) -> str:
    """List layer names with the layer number folded: `layers.*.attention.wq (30)`."""
    folded: dict[str, int] = {}
    for name in sorted(names):
        parts = ["*" if part.isdigit() else part for part in name.split(".")]
        key = ".".join(part for part in parts if part != "model")
        folded[key] = folded.get(key, 0) + 1
    return ", ".join(f"{key} ({count})" if count > 1 else key for key, count in folded.items())


def _modules(model: nn.Module, kind: type) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, kind))


def _untie(model: nn.Module) -> None:
    """Give a tied output a parameter of its own over the same memory, so that one can change."""
    if model.output.weight is model.tok_embeddings.weight:
        model.output.weight = nn.Parameter(model.tok_embeddings.weight.data, requires_grad=False)
