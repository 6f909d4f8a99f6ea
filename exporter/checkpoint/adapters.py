"""Say what adapters change of a model's parameters, under canonical names; without torch.

`merge` computes it. Names, shapes and what several adapters do to one parameter are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from exporter.checkpoint import hub
from exporter.checkpoint.adapter_source import AdapterSource
from exporter.checkpoint.digest import sha256_of_files
from exporter.checkpoint.find import HUB_ID
from exporter.checkpoint.known_models import MODELS
from exporter.checkpoint.weights import (
    ALL_ROWS,
    MAX_NAMED,
    TOKENIZERS,
    Weights,
    first_existing,
    shared_rows,
    stored_names,
    whole_shapes,
)
from exporter.families.sources.registry import family_named
from exporter.formats.adapter import CONFIG, WEIGHTS, LowRank, PeftAdapter, read_adapter
from exporter.formats.file_tensor import FileTensor, same_bits
from exporter.model.config import ModelConfig
from exporter.model.matrices import parameter_shapes

_EMBEDDING, _OUTPUT = "tok_embeddings.weight", "output.weight"
# What names of one model's copies differ by.
_COPIES = re.compile(r"[-_](bnb-4bit|4bit|8bit|fp8|gptq|awq|gguf|hf|bf16|unsloth)\b.*")


@dataclass(frozen=True)
class Adapter:
    """An adapter that is merged: its `name`, `scale`, and the files of its config and weights."""

    name: str
    scale: float
    files: tuple[Path, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of adapter_config.json and the weights."""
        return sha256_of_files(self.files, lambda line: None)

    def own_tokenizer(self, base: Path | None) -> Path | None:
        """Find a tokenizer beside the adapter that is another than `base`; None where there is none."""
        own = first_existing(self.files[0].parent, TOKENIZERS)
        same = own is not None and base is not None and own.read_bytes() == base.read_bytes()
        return None if same else own

    def to_dict(self) -> dict[str, object]:
        """Return what an artifact says of it."""
        return {"name": self.name, "scale": self.scale, "digest": self.digest}


@dataclass(frozen=True)
class Adaptation:
    """What becomes of a parameter: it is kept, or `replaced` by a whole tensor, to which `offset` is added as
    the model does; and then the `added` are added. `rows` are the parameter's of a tensor `replaced` that is
    several parameters'."""

    replaced: FileTensor | None = None
    offset: float = 0.0
    added: tuple[LowRank, ...] = ()
    rows: slice = field(default_factory=lambda: ALL_ROWS)


@dataclass(frozen=True)
class Adapted:
    """A model's config and weights with adapters, and what they change by canonical name."""

    config: ModelConfig
    weights: Weights
    changes: Mapping[str, Adaptation] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()


def adapter_folder(source: AdapterSource) -> Path:
    """Find an adapter's folder, on the hub where there is none here. Raises ValueError or OSError."""
    folder = Path(source.place)
    if folder.exists() or not HUB_ID.fullmatch(source.place):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"adapter {folder} is no folder: give the one that holds {CONFIG} and {WEIGHTS[0]}"
            )
        return folder
    return hub.download(source.place, (CONFIG, *WEIGHTS), f"--adapter DIR for --adapter {source.place}")


def adapted(
    model: str, config: ModelConfig, weights: Weights, sources: Sequence[AdapterSource]
) -> Adapted:
    """Merge adapters into the description of `model`, MODEL as it was given.

    Raises ValueError or OSError with a line that names the adapter, what does not fit, and the remedy.
    """
    changes: dict[str, Adaptation] = {}
    found, tied = [], False
    for source in sources:
        adapter = read_adapter(adapter_folder(source))
        _check_base(model, adapter)
        try:
            for name, change in _changes(config, adapter, source.scale).items():
                changes[name] = _both(name, changes.get(name), change)
        except ValueError as error:
            raise ValueError(f"adapter {adapter.folder}: {error}") from error
        tied = tied or adapter.tied
        name = source.place if HUB_ID.fullmatch(source.place) else adapter.folder.resolve().name
        found.append(Adapter(name, source.scale, adapter.files))
    return _untied(Adapted(config, weights, changes, tuple(found)), tied)


def _check_base(model: str, adapter: PeftAdapter) -> None:
    """Raise ValueError where both the model and the adapter's base are hub ids, and of other models."""
    given = MODELS[model].hub_id if model in MODELS else model
    if adapter.base is None or given is None or Path(given).exists():
        return
    given = given.partition("@")[0]
    known = all(HUB_ID.fullmatch(name) for name in (given, adapter.base))
    if known and _plain(given) != _plain(adapter.base):
        raise ValueError(
            f"adapter {adapter.folder} is for {adapter.base}, not for {given}: give that model, or, to merge "
            "it into this one all the same, a folder with --checkpoint"
        )


def _plain(hub_id: str) -> str:
    name = _COPIES.sub("", hub_id.partition("/")[2].lower())
    return name.removeprefix("meta-")


def _changes(config: ModelConfig, adapter: PeftAdapter, scale: float) -> dict[str, Adaptation]:
    """Return what one adapter changes. Raises ValueError naming tensors that do not fit the model."""
    source = family_named(config.family).hf
    if source is None:
        raise ValueError(f"the family {config.family} has no Hugging Face names, by which PEFT calls tensors")
    shapes = parameter_shapes(config) | {_OUTPUT: (config.vocab_size, config.dim)}
    held = adapter.added.keys() | adapter.replaced.keys() | adapter.kept.keys()
    stored = {}
    for name in shapes:
        candidates = stored_names(source.names, name)
        stored[name] = next((candidate for candidate in candidates if candidate in held), candidates[0])
    places = shared_rows(stored, shapes)
    whole = whole_shapes(stored, shapes)
    if scale != 1 and adapter.replaced:
        raise ValueError(
            f"it holds whole tensors ({min(adapter.replaced)}), which no scale ({scale:g}) applies to: leave "
            "the scale out"
        )
    named = {
        name: tensor.shape for part in (adapter.added, adapter.replaced, adapter.kept)
        for name, tensor in part.items()
    }  # fmt: skip
    if unknown := [name for name in named if name not in whole]:
        listed = ", ".join(unknown[:MAX_NAMED]) + (", ..." if len(unknown) > MAX_NAMED else "")
        raise ValueError(
            f"{len(unknown)} of its tensors belong to nothing in this model of {config.family} ({listed}): "
            f"give the model that it was trained on{f', {adapter.base}' if adapter.base else ''}"
        )
    changes = {}
    for place, (name, rows) in places.items():
        low_rank, replaced = adapter.added.get(name), adapter.replaced.get(name) or adapter.kept.get(name)
        for tensor in (low_rank, replaced):
            if tensor is not None and tuple(tensor.shape) != whole[name]:
                raise ValueError(_misshapen(name, tensor.shape, whole[name], adapter))
        if low_rank is None and replaced is None:
            continue
        offset = source.names.norm_offset if place.endswith("norm.weight") else 0.0
        added = () if low_rank is None else (replace(low_rank, factor=scale * low_rank.factor, rows=rows),)
        changes[place] = Adaptation(replaced, offset, added, rows)
    return changes


def _misshapen(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...], adapter: PeftAdapter
) -> str:
    remedy = f"give the model that it was trained on{f', {adapter.base}' if adapter.base else ''}"
    if len(shape) == len(expected) == 2 and shape[0] != expected[0] and shape[1] == expected[1]:
        remedy += "; where tokens were added to it, merge the adapter with peft first"
    return f"what it has for {name} is {list(shape)}, the model's {list(expected)}: {remedy}"


def _both(name: str, first: Adaptation | None, second: Adaptation) -> Adaptation:
    """Return what two adapters do together to a parameter. Raises ValueError where one replaces it."""
    if first is None:
        return second
    if first.replaced is not None or second.replaced is not None:
        raise ValueError(
            f"it and another adapter change {name}, which one of them replaces as a whole: give one of them"
        )
    return Adaptation(added=first.added + second.added)


def _untied(model: Adapted, tied: bool) -> Adapted:
    """Return the model with an output layer of its own where embedding and output layer were one tensor and
    adapters change them differently; `tied` adapters mean both where they name one."""
    changes = dict(model.changes)
    embedding, output = changes.get(_EMBEDDING), changes.pop(_OUTPUT, None)
    if not model.config.tied_embeddings:
        return model
    if embedding is None and output is None:
        return model
    one = embedding is None or output is None
    if tied and one or not one and _same(embedding, output):
        return replace(model, changes=changes | {_EMBEDDING: embedding or output})
    module = model.weights.names.modules["tok_embeddings"]
    return replace(
        model,
        config=replace(model.config, tied_embeddings=False),
        weights=model.weights.renamed("output", module),
        changes=model.changes,
    )


def _same(first: Adaptation, second: Adaptation) -> bool:
    """Tell whether two changes are one whole tensor, stored once or twice."""
    if first.replaced is None or second.replaced is None or first.added or second.added:
        return False
    return same_bits(first.replaced, second.replaced)
