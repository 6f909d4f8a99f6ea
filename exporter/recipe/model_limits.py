"""Refuse what a model's layers do not allow, known from its config alone and before any work."""

from exporter.formats.packed_header import ROW_BLOCK
from exporter.model.config import ModelConfig
from exporter.recipe.methods import PLAIN, parse_method
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import AOTI, LOWBIT

MAX_HEAD_DIM = 512  # of the attention operator


def check_model(
    config: ModelConfig, recipe: Recipe, backends: tuple[str, ...], delegate: str, fit: str | None
) -> None:
    """Raise ValueError with the remedy where `recipe`, a backend, the delegate or a fit to a budget cannot
    take the model."""
    if any(layer.feed_forward.experts is not None for layer in config.layers):
        check_experts(config, recipe, delegate, fit)
    if recipe.linear is not None and "rotate" in parse_method(recipe.linear.method).transforms:
        check_rotation(config)
    if delegate == LOWBIT:
        check_head_widths(config)
    elif AOTI in backends:
        check_caches(config)


def check_experts(config: ModelConfig, recipe: Recipe, delegate: str, fit: str | None) -> None:
    """Raise ValueError for what a mixture of experts does not have: stock kernels, methods that look at what
    reaches a matrix, and rows of which a panel holds those of two experts."""
    if delegate != LOWBIT:
        raise ValueError(
            f"{config.family} chooses experts by token, which only the {LOWBIT} kernels do: leave --delegate "
            f"{delegate} out"
        )
    if fit is not None:
        raise ValueError(f"--fit {fit}: {config.family} has experts, which it does not measure; leave it out")
    for method in () if recipe.linear is None else recipe.linear.methods():
        if not method.is_plain():
            raise ValueError(
                f'method "{"+".join((*method.transforms, method.rounding))}": {config.family} has experts, '
                f"each of which sees a few tokens alone; use one of {', '.join(PLAIN)}"
            )
    for scheme in () if recipe.linear is None else (recipe.linear, *(s for _, s in recipe.linear.layers)):
        if scheme.bitwidth_from_row:
            raise ValueError(f'"{scheme.key}", bitwidth_from_row: experts have one format; leave it out')
    for layer in config.layers:
        ffn = layer.feed_forward
        first = 2 * ffn.hidden_dim if ffn.gated else ffn.hidden_dim
        if ffn.experts is not None and (first % ROW_BLOCK or config.dim % ROW_BLOCK):
            raise ValueError(
                f"experts of {ffn.hidden_dim} products in a model of width {config.dim}: the {LOWBIT} "
                f"kernels take experts' matrices whose rows are a multiple of {ROW_BLOCK}"
            )


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
