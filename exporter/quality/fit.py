"""Fit formats and roundings to a budget: the least KL for a size, or the least size for a KL.

The choices of a matrix on the lower convex hull of (bytes, KL) are taken up in the order of KL saved
a byte, over all matrices, until the budget is reached (Shoham and Gersho, 1988, for bit allocation).
What a size leaves then goes to single choices, on a hull or not. KLs of single matrices are added up:
`sensitivity.py` measures them.
"""

from collections import Counter
from dataclasses import dataclass, replace

from exporter.quality.budget import Budget
from exporter.quality.choices import Choice, Unit, scale_dtype, scheme_of
from exporter.recipe.methods import PLAIN
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import DEFAULT_METHOD, EmbeddingScheme


@dataclass(frozen=True)
class Fit:
    """The choice of each unit, what all of them take, and the KL that is predicted."""

    chosen: dict[str, Choice]
    bytes: int
    kl: float


def hull(choices: tuple[Choice, ...]) -> list[Choice]:
    """Return the choices that no mixture of others beats, the smallest first."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bytes, c.kl)):
        if kept and choice.kl >= kept[-1].kl:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], choice):
            kept.pop()
        kept.append(choice)
    return kept


def _slope(a: Choice, b: Choice) -> float:
    """Return the KL saved a byte from `a` to `b`, which is larger."""
    return (a.kl - b.kl) / (b.bytes - a.bytes)


def fit(units: list[Unit], most_bytes: float | None, most_kl: float | None) -> Fit:
    """Choose formats whose packed bytes are at most `most_bytes`, or whose KL is at most `most_kl`.

    Raises ValueError that says what is possible when the budget cannot be kept.
    """
    hulls = {unit.name: hull(unit.choices) for unit in units}
    at = dict.fromkeys(hulls, 0)
    size = sum(choices[0].bytes for choices in hulls.values())
    kl = sum(choices[0].kl for choices in hulls.values())
    check_room(size, most_bytes)
    steps = sorted(
        ((_slope(a, b), name, i + 1)
         for name, choices in hulls.items()
         for i, (a, b) in enumerate(zip(choices, choices[1:], strict=False))),
        key=lambda step: (-step[0], step[1], step[2]),
    )  # fmt: skip
    for _, name, i in steps:
        if most_kl is not None and kl <= most_kl:
            break
        before, after = hulls[name][i - 1], hulls[name][i]
        if at[name] != i - 1 or (
            most_bytes is not None and size + after.bytes - before.bytes > most_bytes
        ):
            continue  # a step that does not fit; smaller ones of other matrices may
        at[name], size, kl = i, size + after.bytes - before.bytes, kl + after.kl - before.kl
    if most_kl is not None and kl > most_kl:
        raise ValueError(
            f"--fit: the largest formats are predicted to have a KL of {kl:.2g} nats; ask for more, "
            "or leave the model unquantized"
        )
    chosen = {name: hulls[name][i] for name, i in at.items()}
    if most_bytes is not None:
        _use_up(units, chosen, most_bytes - size)
    choices = chosen.values()
    return Fit(chosen, sum(c.bytes for c in choices), sum(c.kl for c in choices))


def check_room(smallest: int, most_bytes: float | None) -> None:
    """Raise ValueError where the budget leaves less than the `smallest` formats take."""
    if most_bytes is not None and smallest > most_bytes:
        raise ValueError(
            f"--fit: the smallest formats take {smallest / 1e6:.1f} MB, "
            f"{(smallest - most_bytes) / 1e6:.1f} MB more than the budget leaves for the weights: give a "
            "larger one"
        )


def _use_up(units: list[Unit], chosen: dict[str, Choice], room: float) -> None:
    """Put choices that lose less, the ones that save most first, in place of those `chosen`, as long as
    one takes no more than `room` bytes more."""
    while True:
        better = [
            (now.kl - other.kl, now.bytes - other.bytes, unit.name, other)
            for unit in units
            for now in [chosen[unit.name]]
            for other in unit.choices
            if other.kl < now.kl and other.bytes - now.bytes <= room
        ]
        if not better:
            return
        _, left, name, choice = max(better, key=lambda found: found[:2])
        chosen[name], room = choice, room + left


def fitted_recipe(found: Fit, base: Recipe, shared: bool) -> Recipe:
    """Return the fitted recipe, as `--quantize` takes it: what most matrices have, and under "layers" the
    others."""
    schemes = {
        name: scheme_of(base.linear, choice)
        for name, choice in found.chosen.items()
        if name != "embedding"
    }
    ((most, _),) = Counter(s for s in schemes.values() if not s.bitwidth_from_row).most_common(1)
    layers = tuple((name, scheme) for name, scheme in schemes.items() if scheme != most)
    table = found.chosen["output" if shared else "embedding"]
    # Of one table the embedding's rounding must be the output's, or both would be stored.
    embedding = EmbeddingScheme(
        "embedding:wx", table.group_size, table.bits,
        method=table.rounding if table.rounding in PLAIN else DEFAULT_METHOD,
        scale_dtype=scale_dtype(table.bits), bitwidth_from_row=table.from_row,
    )  # fmt: skip
    return replace(base, linear=replace(most, layers=layers), embedding=embedding)


def fit_report(
    found: Fit, budget: Budget, weights: int, fixed: int, factor: float, measured: float
) -> dict[str, object]:
    """Report what was predicted, the file with `fixed` bytes beside the weights and the KL times `factor`,
    and the KL measured: for the recipe's reader."""
    return {
        "budget": budget.text,
        "weights": weights,
        "most_bytes": budget.most_bytes(weights),
        "predicted_bytes": found.bytes + fixed,
        "predicted_kl": found.kl * factor,
        "measured_kl": measured,
    }
