"""Warn of what one bit a weight does to a model, before it is done."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from exporter.lowbit.weights import weight_format
from exporter.model.decoder import Transformer
from exporter.recipe.methods import parse_method
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import Scheme

# By the zeros of the format: mean KL in nats of SmolLM2-135M, `linear:a8wx` of 1 bit rounded to nearest in
# groups of 32, its embedding of 8 bits, and the share of positions at which the top token stays. Measured
# with the levels -scale and +scale on 381 positions of the Jargon File, with 0 and one scale on 2,040.
ONE_BIT_MEASURED = {"between": (11.3, 0.0), "integer": (16.4, 0.0)}
ROWS = 16  # of a matrix that are looked at
SPREAD = 2.0**-8  # of magnitudes within a group that bfloat16 makes of equal ones


def one_bit_warning(recipe: Recipe, model: Transformer) -> str | None:
    """Return the warning for a recipe of one bit and a model whose weights were not trained for two levels
    a group; None where nothing is lost, or nothing has one bit.

    Looks at the first rows of the first layer's `wq` and of the embedding.
    """
    looked_at = [
        *((scheme, model.layers[0].attention.wq.weight) for scheme in _of_one_bit(recipe.linear)),
        *((scheme, model.tok_embeddings.weight) for scheme in _of_one_bit(recipe.embedding)),
    ]
    lossy = [scheme for scheme, weight in looked_at if not has_two_levels(weight[:ROWS], scheme)]
    if not lossy:
        return None
    kl, top1 = ONE_BIT_MEASURED[weight_format(lossy[0], model.config.dim).zeros]
    return (
        f"1 bit is for models that were trained for the levels -scale and +scale in each group, which "
        f"these weights are not: rounded so, SmolLM2-135M had a KL of {kl:.1f} nats from its float model and "
        f'kept {top1:.0%} of its top tokens; give 4 bits, or 2 or 3 with "method": "rotate+gptq"'
    )


def has_two_levels(rows: Tensor, scheme: Scheme) -> bool:
    """Tell whether each group of rows [R, K], as `scheme` has them, holds one magnitude only, so that the
    levels of its one bit are the weights'. With stored zeros one of the levels is 0, and nothing is kept; nor
    is it by a method that changes weights first."""
    form = weight_format(scheme, rows.shape[1])
    if form.zeros != "between" or parse_method(scheme.method).transforms:
        return False
    groups = rows.float().abs().split(form.group_size, 1)
    return all(
        bool((group.amax(1) - group.amin(1) <= SPREAD * group.amax(1)).all()) for group in groups
    )


def _of_one_bit(scheme: Scheme | None) -> Iterator[Scheme]:
    """Yield the scheme and its layers' schemes that give all rows one bit, or some: as schemes of those
    rows."""
    layers = getattr(scheme, "layers", ())
    for own in () if scheme is None else (scheme, *(own for _, own in layers)):
        if 1 in (own.bitwidth, *(bits for _, bits in own.bitwidth_from_row)):
            yield replace(own, bitwidth=1, bitwidth_from_row=())
