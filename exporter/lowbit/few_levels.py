"""Warn of what two or three levels a weight do to a model that has others, before it is done."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from exporter.lowbit.weights import OUR_SCHEMES, weight_format
from exporter.model.decoder import Transformer
from exporter.recipe.methods import parse_method
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import Scheme

# By the zeros of the format: mean KL in nats of SmolLM2-135M, `linear:a8wx` of 1 bit rounded to nearest in
# groups of 32, its embedding of 8 bits, and the share of positions at which the top token stays. Measured
# with the levels -scale and +scale on 381 positions of the Jargon File, with 0 and one scale on 2,040.
ONE_BIT_MEASURED = {"between": (11.3, 0.0), "integer": (16.4, 0.0)}
# The same of the recipe `ternary`, groups of 128, on 1,020 positions of the Jargon File.
TERNARY_MEASURED = (10.6, 0.02)
ROWS = 16  # of a matrix that are looked at
SPREAD = 2.0**-8  # of magnitudes within a group that bfloat16 makes of equal ones


def few_levels_warning(recipe: Recipe, model: Transformer) -> str | None:
    """Return the warning for a recipe of one bit, or of two without zero points that are rounded to plainly,
    and a model whose weights were not trained for two or three levels a group; None where nothing is lost, or
    nothing has so few.

    Looks at the first rows of the first layer's `wq` and of the embedding.
    """
    looked_at = [
        *((scheme, model.layers[0].attention.wq.weight) for scheme in _of_few_levels(recipe.linear)),
        *((scheme, model.tok_embeddings.weight) for scheme in _of_few_levels(recipe.embedding)),
    ]
    lossy = [scheme for scheme, weight in looked_at if not has_few_levels(weight[:ROWS], scheme)]
    if not lossy:
        return None
    form = weight_format(lossy[0], model.config.dim)
    if form.bits == 1:
        return (
            f"1 bit is for models that were trained for the levels -scale and +scale in each group, which "
            f"these weights are not: {_lost(*ONE_BIT_MEASURED[form.zeros])}"
        )
    return (
        f"2 bits without zero points are for models that were trained for the levels -scale, 0 and +scale in "
        f"each group, of {form.group_size} here, which these weights are not: give their own groups as "
        f"groupsize where they have others (64 in GGUF's Q2_0); {_lost(*TERNARY_MEASURED)}"
    )


def _lost(kl: float, top1: float) -> str:
    return (
        f"rounded so, SmolLM2-135M had a KL of {kl:.1f} nats from its float model and kept {top1:.0%} of its "
        'top tokens; give 4 bits, or 2 or 3 with "method": "rotate+gptq"'
    )


def has_few_levels(rows: Tensor, scheme: Scheme) -> bool:
    """Tell whether each group of rows [R, K], as `scheme` has them, holds one magnitude only, and 0 where
    there are two bits, so that the levels are the weights'. One bit with stored zeros has 0 for a level, and
    nothing is kept; nor is it by a method that changes weights first."""
    form = weight_format(scheme, rows.shape[1])
    if form.bits == 1 and form.zeros != "between" or parse_method(scheme.method).transforms:
        return False
    return all(
        bool(_one_magnitude(group, form.bits > 1).all())
        for group in rows.float().abs().split(form.group_size, 1)
    )


def _one_magnitude(magnitudes: Tensor, or_zero: bool) -> Tensor:
    """Tell of each of the magnitudes [R, size] whether it is the row's largest, or perhaps 0."""
    largest = magnitudes.amax(1, keepdim=True)
    equal = largest - magnitudes <= SPREAD * largest
    return equal | (magnitudes == 0) if or_zero else equal


def _of_few_levels(scheme: Scheme | None) -> Iterator[Scheme]:
    """Yield the scheme and its layers' schemes that give all rows one bit, or some: as schemes of those
    rows; and the scheme of two bits for three levels."""
    if scheme is None:
        return
    if _has_three_levels(scheme):
        yield scheme
    for own in (scheme, *(own for _, own in getattr(scheme, "layers", ()))):
        if 1 in (own.bitwidth, *(bits for _, bits in own.bitwidth_from_row)):
            yield replace(own, bitwidth=1, bitwidth_from_row=())


def _has_three_levels(scheme: Scheme) -> bool:
    """Tell whether a scheme rounds all to two bits around 0, by no method that makes up for it."""
    plain = scheme.key in OUR_SCHEMES and parse_method(scheme.method).is_plain()
    return plain and scheme.bitwidth == 2 and not scheme.has_weight_zeros and not scheme.bitwidth_from_row
