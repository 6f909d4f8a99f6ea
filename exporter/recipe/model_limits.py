"""Refuse what a model's layers do not allow, known from its config alone and before any work."""

from exporter.model.config import ModelConfig
from exporter.recipe.methods import parse_method
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import AOTI, LOWBIT

MAX_HEAD_DIM = 512  # of the attention operator


def check_model(config: ModelConfig, recipe: Recipe, backends: tuple[str, ...], delegate: str) -> None:
    """Raise ValueError with the remedy where `recipe`, a backend or the delegate cannot take the model."""
    if recipe.linear is not None and "rotate" in parse_method(recipe.linear.method).transforms:
        check_rotation(config)
    if delegate == LOWBIT:
        check_head_widths(config)
    elif AOTI in backends:
        check_caches(config)


def check_rotation(config: ModelConfig) -> None:
    """Raise ValueError where a norm's weight, which is another in every basis, stands between matrices and
    the residual stream that they add to, or where norms take the mean of its elements."""
    of_stream = (layer.norm for layer in config.layers if layer.norm_in)
    if "layer" in (*of_stream, config.layers[-1].norm):
        raise ValueError(
            f'method "rotate": {config.family} has layer norms, and the mean that they take of the residual '
            'stream\'s elements is another in every basis; leave "rotate" out'
        )
    for i, layer in enumerate(config.layers):
        if layer.norm_out:
            raise ValueError(
                f'method "rotate": {config.family} has a norm between a layer\'s matrices and the residual '
                f"stream (layers.{i}.attention_out_norm behind layers.{i}.wo), which no rotation of the "
                'stream can pass; leave "rotate" out'
            )


def check_head_widths(config: ModelConfig) -> None:
    """Raise ValueError for heads that are wider than the lowbit kernels take."""
    widest = max(layer.attention.head_dim for layer in config.layers)
    if widest > MAX_HEAD_DIM:
        raise ValueError(
            f"heads of width {widest} are wider than the lowbit kernels' {MAX_HEAD_DIM}; use --delegate stock"
        )


def check_caches(config: ModelConfig) -> None:
    """Raise ValueError for layers whose caches differ, of which an AOTInductor artifact on stock operators
    knows one shape."""
    specs = (layer.attention for layer in config.layers)
    shapes = sorted({(spec.n_kv_heads, spec.head_dim) for spec in specs})
    if len(shapes) > 1:
        named = " and ".join(f"{heads} key-value heads of width {width}" for heads, width in shapes)
        raise ValueError(
            f"layers with {named}: a .pt2 or .so on stock operators has caches of one shape for all layers; "
            "use --delegate lowbit or --output-pte"
        )
