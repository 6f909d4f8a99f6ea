"""Change the float weights so that the model's function stays and they are easier to quantize.

- `rotate`: the residual stream turned by a random orthogonal matrix, and each head's values by one of
  their own, folded into the neighbouring weights (QuaRot, arXiv 2404.00456, and SpinQuant,
  2405.16406: their offline part). Norms' weights are folded first.
- `smoothquant` (arXiv 2211.10438) and `awq` (2306.00978): inputs of a matrix divided by a factor each,
  its columns multiplied, folded into the weights that make those inputs.
- `retie`: where the output layer is the embedding times a small matrix, as in a rotated copy of a
  tied model, one table and that matrix take the place of two tables.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from exporter.model.config import AttentionSpec, ModelConfig
from exporter.model.decoder import Block, Transformer
from exporter.model.matrices import ACTIVATION, NORM, PRODUCT, STREAM, SUB_NORM, VALUES

ROTATION_SEED = 2404
RETIE_TOLERANCE = 1e-4  # relative Frobenius norm of what the small matrix leaves
SMOOTHQUANT_ALPHA = 0.5
AWQ_ALPHAS = tuple(i / 8 for i in range(8))


def random_orthogonal(size: int, seed: int) -> Tensor:
    """Draw a float64 matrix [size, size], distributed evenly over the orthogonal matrices: the Q of a
    Gaussian matrix's QR decomposition whose R has a positive diagonal (Mezzadri, arXiv math-ph/0609050)."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def residual_rotation(config: ModelConfig) -> Tensor:
    """Return the matrix R float64 [D, D] of `rotate`: its residual stream is x R."""
    return random_orthogonal(config.dim, ROTATION_SEED)


def rotate_ends(model: Transformer, rotation: Tensor) -> None:
    """Rotate the embedding and the output layer by `residual_rotation`. A tied output stays tied: what
    was the last norm's weight becomes the matrix `head` before it."""
    gain = model.norm.weight.detach().double()
    tied = model.output.weight is model.tok_embeddings.weight
    table = _parameter(model.tok_embeddings.weight.double() @ rotation)
    if tied:
        before = torch.eye(len(gain)).double() if model.head is None else model.head.weight.double()
        _set_head(model, rotation.T @ (before * gain) @ rotation)
        model.tok_embeddings.weight = model.output.weight = table
    else:
        model.tok_embeddings.weight = table
        model.output.weight = _parameter((model.output.weight.double() * gain) @ rotation)
    model.norm.weight = _parameter(torch.ones_like(gain))


def rotate_block(block: Block, rotation: Tensor, number: int) -> None:
    """Fold the norms into the matrices after them and rotate the residual stream, by
    `residual_rotation`, and the values of layer `number`."""
    norms = {feed.name for feed in block.feeds() if feed.kind == NORM}
    gains = {name: block.norm(name).weight.detach().double() for name in norms}
    for matrix in block.matrices.values():
        layers = block.sources(matrix.name)
        if matrix.feed.kind in (NORM, STREAM):
            gain = gains.get(matrix.feed.name, torch.ones(matrix.columns).double())
            for layer in layers:
                layer.weight = _parameter((layer.weight.double() * gain) @ rotation)
        if matrix.residual:
            for layer in layers:
                layer.weight = _parameter(rotation.T @ layer.weight.double())
                if layer.bias is not None:
                    layer.bias = _parameter(rotation.T @ layer.bias.double())
    for name, gain in gains.items():
        block.norm(name).weight = _parameter(torch.ones_like(gain))
    if not block.layer.attention.gated:  # a gate multiplies each element of a head by itself
        for matrix in block.matrices.values():
            if matrix.feed.kind == VALUES:
                values, (output,) = block.get_submodule(matrix.feed.name), block.sources(matrix.name)
                _rotate_values(block.layer.attention, values, output, number)


def _rotate_values(spec: AttentionSpec, values: nn.Linear, output: nn.Linear, number: int) -> None:
    """Turn each head's values by a matrix of its own, and the output matrix's columns back."""
    turns = [random_orthogonal(spec.head_dim, ROTATION_SEED + 1 + number * spec.n_kv_heads + k)
             for k in range(spec.n_kv_heads)]  # fmt: skip
    of_values = torch.block_diag(*turns)
    of_heads = torch.block_diag(*(turn for turn in turns for _ in range(spec.n_heads // spec.n_kv_heads)))
    values.weight = _parameter(of_values.T @ values.weight.double())
    if values.bias is not None:
        values.bias = _parameter(of_values.T @ values.bias.double())
    output.weight = _parameter(output.weight.double() @ of_heads)


def retie(model: Transformer) -> float | None:
    """Store the output layer as the embedding and a matrix `head`, where that is exact.

    Returns the relative error, or None for a tied model. Raises ValueError when the output layer is
    something else.
    """
    if model.output.weight is model.tok_embeddings.weight:
        return None
    table, output = model.tok_embeddings.weight.detach(), model.output.weight.detach()
    D = table.shape[1]
    squares, products = (torch.zeros(D, D, dtype=torch.float64) for _ in range(2))
    for rows, targets in zip(table.split(8192), output.split(8192), strict=True):
        squares += rows.double().T @ rows.double()
        products += rows.double().T @ targets.double()
    matrix = torch.linalg.solve(squares, products)
    parts = zip(table.split(8192), output.split(8192), strict=True)
    left = sum(float((a.double() @ matrix - b).square().sum()) for a, b in parts)
    error = (left / float(output.double().square().sum())) ** 0.5
    if not error < RETIE_TOLERANCE:
        raise ValueError(
            f'method "retie": this model\'s output layer is not its embedding times a matrix '
            f'(relative error {error:.2g}); leave "retie" out'
        )
    _set_head(model, matrix)
    model.output.weight = model.tok_embeddings.weight
    return error


def _set_head(model: Transformer, weight: Tensor) -> None:
    """Put `weight` before the output layer: the logits of x become those of x weight^T."""
    model.head = nn.Linear(len(weight), len(weight), bias=False, device="meta")
    model.head.weight = _parameter(weight)


ChooseFactors = Callable[[str, Tensor], Tensor]


def smooth_block(block: Block, factors: ChooseFactors) -> None:
    """Divide the inputs of each matrix by `factors(name, weight [N, K])` float32 [K] and multiply its
    columns. Matrices that read the same have the factors of the first, chosen for the rows of all; the
    values' factors are one for all heads that read them. Inputs that nothing can divide stay: those that are
    the residual stream itself, activations alone, and products of a second factor within limits."""
    spec = block.layer.attention
    for feed in block.feeds():
        limited = feed.kind == PRODUCT and block.layer.feed_forward.limit is not None
        if feed.kind in (STREAM, ACTIVATION) or limited:
            continue
        readers = [matrix.name for matrix in block.matrices.values() if matrix.feed == feed]
        layers = [layer for name in readers for layer in block.sources(name)]
        s = factors(readers[0], torch.cat([layer.weight for layer in layers]))
        if feed.kind in (NORM, SUB_NORM):
            norm = block.norm(feed.name)
            norm.weight = _parameter(norm.weight / s)
            if getattr(norm, "bias", None) is not None:
                norm.bias = _parameter(norm.bias / s)
        elif feed.kind == VALUES:
            shape = (spec.n_kv_heads, spec.n_heads // spec.n_kv_heads, spec.head_dim)
            each = s.view(shape).log().mean(1).exp()
            _scale_rows(block.get_submodule(feed.name), 1 / each.reshape(-1))
            s = each[:, None].expand(shape).reshape(-1)
        else:
            _scale_rows(block.get_submodule(feed.name), 1 / s)
        _scale_columns(layers, s)


def smoothquant_factors(largest: Tensor, weight: Tensor) -> Tensor:
    """Return max |x|^a / max |w|^(1 - a) [K] for the inputs' largest magnitudes [K]."""
    alpha = SMOOTHQUANT_ALPHA
    s = largest.clamp(min=1e-5) ** alpha / weight.abs().amax(0).clamp(min=1e-5) ** (1 - alpha)
    return _centred(s)


def awq_factors(
    mean: Tensor, weight: Tensor, hessian: Tensor, rounded: Callable[[Tensor], Tensor]
) -> Tensor:
    """Search the power of the inputs' mean magnitudes [K] whose factors lose least at the outputs, when
    `rounded` [N, K] → [N, K] rounds the scaled weight and the inputs' second moment is `hessian`."""
    best, least = torch.ones_like(mean), None
    for alpha in AWQ_ALPHAS:
        s = _centred(mean.clamp(min=1e-5) ** alpha)
        difference = rounded(weight * s) / s - weight
        error = float(((difference @ hessian) * difference).sum())
        if least is None or error < least:
            best, least = s, error
    return best


def _centred(s: Tensor) -> Tensor:
    return s / s.log().mean().exp()


def _scale_columns(layers: list[nn.Linear], s: Tensor) -> None:
    for layer in layers:
        layer.weight = _parameter(layer.weight * s)


def _scale_rows(layer: nn.Linear, s: Tensor) -> None:
    layer.weight = _parameter(layer.weight * s[:, None])
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias * s)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.float().contiguous(), requires_grad=False)
