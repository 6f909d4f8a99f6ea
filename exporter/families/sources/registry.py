"""Find the family of a config."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence

from exporter import families
from exporter.families.sources.family import Family
from exporter.families.sources.nearest_family import nearest_gguf, nearest_hf


@functools.cache
def all_families() -> tuple[Family, ...]:
    """Return the family of every file in `exporter/families/`, by name."""
    found = []
    for module in pkgutil.iter_modules(families.__path__):
        if not module.ispkg:
            found.append(importlib.import_module(f"{families.__name__}.{module.name}").FAMILY)
    return tuple(found)


def hf_family(config: Mapping[str, object], tensors: Callable[[], Iterable[str]] = tuple) -> Family:
    """The family of config.json's `architectures`.

    Raises ValueError for one that is not supported, which names the nearest family; `tensors` gives the names
    of the tensors, for that alone.
    """
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    known = {
        architecture: family for family in all_families() if family.hf is not None
        for architecture in family.hf.architectures
    }  # fmt: skip
    for family in all_families():
        if family.hf is not None and isinstance(name, str) and name in family.hf.refused:
            raise ValueError(f"architecture {name} is not supported: {family.hf.refused[name]}")
    if not isinstance(name, str) or name not in known:
        near = nearest_hf(all_families(), config, tensors())
        raise ValueError(
            f"architectures {named!r} is not supported: use a checkpoint of {' or '.join(known)}; {near}"
        )
    return known[name]


def gguf_family(fields: Mapping[str, object], shapes: Mapping[str, Sequence[int]]) -> Family:
    """The family of `general.architecture`. Raises ValueError for one that is not supported, which names the
    nearest family, and for a file that is no model."""
    if fields.get("general.type", "model") != "model":
        raise ValueError(
            f"general.type is {fields['general.type']!r}, not a whole model: give the model that it belongs "
            "to; an adapter merged into it, or in PEFT's format with --adapter"
        )
    name = fields.get("general.architecture")
    known = {family.gguf.architecture: family for family in all_families() if family.gguf is not None}
    if not isinstance(name, str) or name not in known:
        listed = " or ".join(repr(architecture) for architecture in known)
        near = nearest_gguf(all_families(), fields, shapes)
        raise ValueError(
            f"general.architecture {name!r} is not supported: use a file of architecture {listed}; {near}"
        )
    return known[name]


def family_named(name: str) -> Family:
    """The family of a ModelConfig."""
    return next(family for family in all_families() if family.name == name)


def meta_family() -> Family:
    """The family that reads Meta's format."""
    return next(family for family in all_families() if family.meta is not None)
