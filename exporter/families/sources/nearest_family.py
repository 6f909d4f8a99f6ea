"""Say which family a model of an unknown architecture is nearest to, and in what it differs.

Every family's reader is tried on the model's fields. What it lacks, what has another value than the family
supports, what no reader asks for, and tensors that the family has no name for are the differences; the family
with the fewest is the nearest, of several the one whose architecture is spelled most like this one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from exporter.families.sources import gguf, hf
from exporter.families.sources.family import Family, TensorNames

SHOWN = 8  # differences that are told; the others are counted
_LAYER = re.compile(r"\.\d+\.")
# Behind a module's name, also in checkpoints that are quantized.
_LEAF = re.compile(
    r"\.(bias|weight|weight_(packed|shape|zero_point|g_idx|global_scale|scale(_inv)?)|qweight|qzeros|scales"
    r"|g_idx|input_(global_)?scale)$"
)


@dataclass(frozen=True)
class Nearest:
    """The name of a family, and what of the model it does not cover."""

    family: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.differences) - SHOWN
        listed = ", ".join(self.differences[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        differs = f"from which it differs in {listed}" if listed else "which has all its fields and tensors"
        return (
            f"the nearest family is {self.family} (exporter/families/{self.family}.py), {differs}; "
            "docs/families.md shows how to add a family"
        )


def nearest_hf(
    families: Iterable[Family], fields: Mapping[str, object], tensors: Iterable[str]
) -> Nearest:
    """Compare a config.json, and the names of the tensors as far as they are known, with `families`."""
    named, tensors = str(fields.get("architectures")), tuple(tensors)

    def survey(family: Family) -> tuple[float, Nearest]:
        found = _survey(_SurveyedHF(fields), family.hf.read)
        differences = (*found, *_unnamed(tensors, family.hf.names))
        likeness = max(_likeness(named, name) for name in family.hf.architectures)
        return likeness, Nearest(family.name, differences)

    return _nearest(survey(family) for family in families if family.hf is not None)


def nearest_gguf(
    families: Iterable[Family], fields: Mapping[str, object], shapes: Mapping[str, Sequence[int]]
) -> Nearest:
    """Compare a GGUF file's metadata, and its tensors with their `shapes`, with `families`."""
    named = str(fields.get("general.architecture"))

    def survey(family: Family) -> tuple[float, Nearest]:
        found = _survey(_SurveyedGGUF(fields, shapes, None), family.gguf.read)
        differences = (*found, *_unnamed(shapes, family.gguf.names))
        return _likeness(named, family.gguf.architecture), Nearest(family.name, differences)

    return _nearest(survey(family) for family in families if family.gguf is not None)


class _SurveyedHF(hf.HFConfig):
    """A config of which differences are noted where HFConfig raises an error, as far as one can go on."""

    def __init__(self, fields: Mapping[str, object]):
        quantization = ("quantization_config", "quantization")
        super().__init__({name: value for name, value in fields.items() if name not in quantization})
        self.differences: list[str] = []

    def required(self, name: str) -> object:
        if self.optional(name) is None:
            self.differences.append(f"no field {name!r}")
        return self.optional(name, 1)

    def only(self, name: str, value: object) -> None:
        found = self.optional(name)
        if found is not None and found != value:
            self.differences.append(f"field {name!r} ({_short(found)}, not {_short(value)})")

    def refuse_unread(self) -> None:
        """They are differences."""


class _SurveyedGGUF(gguf.GGUFConfig):
    def __init__(self, fields: Mapping[str, object], shapes: Mapping[str, Sequence[int]], factors: None):
        super().__init__(fields, shapes, factors)
        self.differences: list[str] = []

    def count(self, name: str, default: int | None = None) -> int:
        if default is None and name not in self.fields:
            self.differences.append(f"no field {name!r}")
            default = 1
        return super().count(name, default)

    def only(self, name: str, value: object) -> None:
        found = self.optional(name, value)
        if found != value:
            self.differences.append(f"field {name!r} ({_short(found)}, not {_short(value)})")

    def refuse_unread(self) -> None:
        """They are differences."""


def _survey(config: _SurveyedHF | _SurveyedGGUF, read: Callable[..., object]) -> list[str]:
    try:
        read(config)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        config.differences.append(f"what its reader says: {error}")
    unread = [f"field {name!r} ({_short(value)})" for name, value in config.unread().items()]
    return [*dict.fromkeys(config.differences), *unread]  # a field may be asked for twice


def _unnamed(tensors: Iterable[str], names: TensorNames) -> list[str]:
    """List the modules of `tensors`, `{i}` being the layer, that the family has no name for."""
    known = set()
    for named in names.modules.values():
        known |= {named} if isinstance(named, str) else set(named)
    modules = (
        _LAYER.sub(".{i}.", _LEAF.sub("", name), count=1) for name in tensors
        if not any(fnmatchcase(name, pattern) for pattern in names.ignored)
    )  # fmt: skip
    # A further number is an expert's.
    numbered = dict.fromkeys(_LAYER.sub(".{n}.", module) for module in modules)
    return [f"tensor {module}" for module in numbered if module not in known]


def _nearest(surveys: Iterable[tuple[float, Nearest]]) -> Nearest:
    return min(surveys, key=lambda found: (len(found[1].differences), -found[0]))[1]


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first.lower(), second.lower()).ratio()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
