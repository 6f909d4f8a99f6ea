"""Describe a checkpoint's weights and config whatever its format, and check the one against the other;
without torch.

`tensors` reads the tensors.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.families.sources.family import TensorNames
from exporter.formats.file_kind import check_content
from exporter.formats.quantized_names import refuse_other_types, refuse_quantized
from exporter.model.config import ModelConfig
from exporter.model.matrices import parameter_shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Read = Callable[..., "Tensor"]  # of a stored name, a dtype or None, and the rows wanted, a slice
ALL_ROWS = slice(None)

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json")
_NUMBERED = re.compile(r"\b(layers|experts)\.(\d+)")
MAX_NAMED = 4  # tensors listed in one message


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors under the names they are stored by.

    `open()` gives `read(name, dtype, rows)`, which returns rows of one tensor in `dtype`, all where none are
    named, a view of the mapped file where it can; the file stays mapped as long as `read` or a view is there.
    A dtype of None is float16 or bfloat16 where a file of tensors has it so, else float32, as for matrices
    that are quantized there. `names` says what the
    family calls them, and how they are stored.
    """

    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    open: Callable[[], Read]
    names: TensorNames
    # Types by stored name, as safetensors spells them, where a format has no other than floats to offer.
    types: Mapping[str, str] = field(default_factory=dict)

    def read(self, name: str, dtype: torch.dtype | None) -> Tensor:
        """Read one tensor, through a mapping of its own."""
        return self.open()(name, dtype)

    def stored_name(self, canonical: str) -> str:
        """Name `layers.3.attention.wq.weight` as the files call it; a parameter that is no module's
        (attention's sinks) is named whole in `names`."""
        candidates = stored_names(self.names, canonical)
        return next((name for name in candidates if name in self.shapes), candidates[0])

    def places(self, config: ModelConfig) -> dict[str, tuple[str, slice]]:
        """Say where each parameter of `config` lies: the stored tensor, and the rows of it. Two parameters
        may also be the same whole tensor."""
        shapes = parameter_shapes(config)
        found = shared_rows({name: self.stored_name(name) for name in shapes}, shapes)
        return {
            name: (place, ALL_ROWS if self.shapes[place][0] == shapes[name][0] else rows)
            for name, (place, rows) in found.items()
        }

    def renamed(self, module: str, stored: str) -> Weights:
        """Return these weights with another stored name for a canonical module."""
        return replace(self, names=replace(self.names, modules={**self.names.modules, module: stored}))

    def without(self, stored: str) -> Weights:
        """Return these weights where one stored tensor carries nothing."""
        return replace(self, names=replace(self.names, ignored=(*self.names.ignored, stored)))


def stored_names(names: TensorNames, canonical: str) -> list[str]:
    """Name a parameter as a source calls it: each of the names of which its files have one."""
    numbers, pattern = _numbers_of(canonical)
    module, _, suffix = pattern.rpartition(".")
    named = names.modules[pattern] if pattern in names.modules else names.modules[module]
    ending = "" if pattern in names.modules else f".{suffix}"
    every = (named,) if isinstance(named, str) else named
    return [f"{_numbered(name, numbers)}{ending}" for name in every]


def _numbered(name: str, numbers: Mapping[str, str]) -> str:
    for place, number in numbers.items():
        name = name.replace(place, number)
    return name


def whole_shapes(
    stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each stored tensor, which has the rows of all parameters that `stored` says lie in
    it."""
    found: dict[str, tuple[int, ...]] = {}
    for name, place in stored.items():
        rows = found[place][0] if place in found else 0
        found[place] = (rows + shapes[name][0], *shapes[name][1:])
    return found


def shared_rows(
    stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, slice]]:
    """Add to each parameter's stored name the rows of that tensor. One that is several parameters' has their
    rows one after the other, in the order of `stored`."""
    shared, found, ends = Counter(stored.values()), {}, Counter()
    for name, place in stored.items():
        first, ends[place] = ends[place], ends[place] + shapes[name][0]
        found[name] = (place, slice(first, ends[place]) if shared[place] > 1 else ALL_ROWS)
    return found


def _numbers_of(canonical: str) -> tuple[dict[str, str], str]:
    """Split a canonical name into its numbers, of the layer {i} and of an expert {n}, and the name with these
    in their place."""
    numbers: dict[str, str] = {}

    def place(found: re.Match) -> str:
        what = "{i}" if found[1] == "layers" else "{n}"
        numbers[what] = found[2]
        return f"{found[1]}.{what}"

    return numbers, _NUMBERED.sub(place, canonical)


@dataclass(frozen=True)
class CheckpointDescription:
    """What a format's reader found in a checkpoint."""

    config: ModelConfig
    weights: Weights
    tokenizer_path: Path | None
    generation: Mapping[str, object]
    token_ids: Mapping[str, object] = field(default_factory=dict)  # config.json's bos_token_id, eos_token_id
    dequantized: str = ""  # which tensors are quantized in the files, in words


def check_names_and_shapes(weights: Weights, config: ModelConfig, where: Path) -> None:
    """Raise ValueError naming the tensors that are missing, extra or misshapen, or no floats, and the method
    where they are those of a quantized checkpoint."""
    try:
        _check(weights, config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check(weights: Weights, config: ModelConfig) -> None:
    refuse_quantized(weights.shapes)
    shapes = parameter_shapes(config)
    expected = whole_shapes({name: weights.stored_name(name) for name in shapes}, shapes)
    refuse_other_types(weights.types.items(), expected)
    missing = [name for name in expected if name not in weights.shapes]
    extra = [
        name
        for name in weights.shapes
        if name not in expected
        and not any(fnmatchcase(name, pattern) for pattern in weights.names.ignored)
    ]
    misshapen = [
        f"{name} {list(weights.shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in weights.shapes and weights.shapes[name] != shape
    ]
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:MAX_NAMED])}"
        + (", ..." if len(names) > MAX_NAMED else "")
        for kind, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if faults:
        raise ValueError(
            f"the tensors are not those of its config ({'; '.join(faults)}): correct the config, or give "
            "the whole checkpoint of a supported architecture"
        )


def read_json(path: Path) -> dict[str, object]:
    """Read the object in a JSON file. Raises ValueError when it is not one, OSError when it cannot be
    read."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: download the whole checkpoint")
    check_content(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): correct it, or download it again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a JSON {type(content).__name__}, not an object: give the checkpoint's own"
        )
    return content


def first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    """Find the first of `names` that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
