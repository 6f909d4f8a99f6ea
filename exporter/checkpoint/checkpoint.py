"""Open a checkpoint of any supported format: Hugging Face, Meta, llama2.c, GGUF.

Opening reads all but the tensors themselves, and does it without torch, which takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.checkpoint.adapter_source import AdapterSource
from exporter.checkpoint.adapters import Adaptation, Adapted, Adapter, adapted, adapter_folder
from exporter.checkpoint.digest import sha256_of_files
from exporter.checkpoint.find import find_checkpoint, find_tokenizer
from exporter.checkpoint.known_models import model_name
from exporter.checkpoint.weights import (
    CheckpointDescription,
    Weights,
    check_names_and_shapes,
)
from exporter.formats.adapter import refuse_adapter
from exporter.formats.file_kind import check_content
from exporter.model.config import ModelConfig
from exporter.model.matrices import parameter_shapes
from exporter.util.progress import Report, at_most_once_a_second

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BESIDE_TOKENIZERS = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def _ignore(text: str) -> None:
    pass


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights, still in their files, and what goes with them.

    `tokenizer_path` is a tokenizer.json, a tokenizer.model, a tekken.json or the GGUF file itself; None where
    there is none. `generation` is the content of generation_config.json, or empty; `token_ids` are the
    bos_token_id and eos_token_id of config.json, where it has them. `progress` takes
    one line of text at most once a second while weights are read. `changes` are what `adapters` do to
    parameters, by canonical name. `dequantized` says which tensors are quantized in the files; "" for none.
    """

    name: str
    config: ModelConfig
    tokenizer_path: Path | None
    generation: Mapping[str, object]
    weights: Weights
    progress: Report = _ignore
    token_ids: Mapping[str, object] = field(default_factory=dict)
    changes: Mapping[str, Adaptation] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    dequantized: str = ""

    def state_dict(
        self, dtype: torch.dtype | None, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Read parameters by their canonical names in `dtype`, on the CPU; every one, or `names` of them.
        With None, matrices are float16 or bfloat16 where the files have them so, and all else is float32.

        Tensors that are stored in `dtype` and in the model's row order are views of the mapped
        files, which stay mapped as long as one of a call's does; the others are converted one at a
        time, so that one copy is held at most.
        """
        from exporter.checkpoint.tensors import canonical_state_dict

        progress = _ignore  # a layer is too little to report
        if names is None:
            names, progress = list(parameter_shapes(self.config)), self.progress
        return canonical_state_dict(self.weights, self.config, dtype, names, self.changes, progress)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the weight files' bytes, one file after another in name order; adapters have
        their own.

        For a single file it is what `sha256sum` prints. Computed on first use: it reads every byte.
        """
        return sha256_of_files(self.weights.files, at_most_once_a_second(self.progress))


def open_checkpoint(
    model: str,
    checkpoint: Path | None = None,
    tokenizer: Path | None = None,
    progress: Report = _ignore,
    adapters: Sequence[AdapterSource] = (),
) -> Checkpoint:
    """Find the model, read its config and where its weights lie, and what `adapters` change.

    `model` is an alias, a path or a hub id, tried in this order; with `checkpoint`, the path of the
    weights, it is only a name. `tokenizer` replaces the checkpoint's own.
    Raises ValueError or OSError with one line that says what is wrong and how to mend it.
    """
    place = find_checkpoint(model, checkpoint)
    given_tokenizer = None if tokenizer is None else find_tokenizer(tokenizer)
    source = _read(place.path, tuple(adapter_folder(adapter).resolve() for adapter in adapters))
    check_names_and_shapes(source.weights, source.config, place.path)
    whole = Adapted(source.config, source.weights)
    if adapters:
        named = model if checkpoint is None else str(checkpoint)
        whole = adapted(named, source.config, source.weights, adapters)
    tokenizer_path = given_tokenizer or source.tokenizer_path or place.tokenizer
    if tokenizer_path is not None:
        for file in (tokenizer_path, *map(tokenizer_path.with_name, BESIDE_TOKENIZERS)):
            if file.exists():
                check_content(file)
    return Checkpoint(
        name=model_name(model),
        config=whole.config,
        tokenizer_path=tokenizer_path,
        generation=source.generation,
        token_ids=source.token_ids,
        weights=whole.weights,
        progress=progress,
        changes=whole.changes,
        adapters=whole.adapters,
        dequantized=source.dequantized,
    )


def _read(path: Path, adapters: Sequence[Path]) -> CheckpointDescription:
    """Read a checkpoint whose format is told by its files' names. A folder that holds an adapter beside it
    must be one of `adapters`."""
    if path.suffix != ".gguf" or path.is_dir():
        folder = path if path.is_dir() else path.parent
        if folder.resolve() not in adapters:
            refuse_adapter(folder)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".gguf":
        return _read_gguf(path)
    if path.name.startswith("consolidated."):
        return _read_meta(path.parent)
    if path.suffix in (".pt", ".pth"):
        return _read_meta(path)
    if path.suffix in (".safetensors", ".bin"):
        return _read_hf(path.parent)
    raise ValueError(
        f"checkpoint {path} is of no known kind: give a Hugging Face folder, a Meta folder, or a "
        ".gguf, .pt or .pth file"
    )


def _read_folder(folder: Path) -> CheckpointDescription:
    if (folder / "config.json").is_file():
        return _read_hf(folder)
    if (folder / "params.json").is_file() or any(folder.glob("consolidated.*.pth")):
        return _read_meta(folder)
    gguf_files = _gguf_models(folder)
    if len(gguf_files) == 1:
        return _read_gguf(gguf_files[0])
    if gguf_files:
        raise ValueError(
            f"{folder} holds {len(gguf_files)} GGUF models: give one of them, for example "
            f"{gguf_files[0].name}"
        )
    raise FileNotFoundError(f"{folder} holds no checkpoint: {_expected(folder)}")


# A format's reader is imported when it is needed: their libraries take longer than finding out that there
# is nothing to read.


def _read_hf(folder: Path) -> CheckpointDescription:
    from exporter.checkpoint.hf import read_hf

    return read_hf(folder)


def _read_meta(path: Path) -> CheckpointDescription:
    from exporter.checkpoint.meta import read_meta

    return read_meta(path)


def _read_gguf(path: Path) -> CheckpointDescription:
    from exporter.checkpoint.gguf import read_checkpoint_gguf

    return read_checkpoint_gguf(path)


def _gguf_models(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        from exporter.formats.gguf_split import whole_names

        files = whole_names(files)
    return files


def _expected(folder: Path) -> str:
    """Say what a folder without a checkpoint lacks, told by what it holds."""
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "it is empty"
    weights = next((n for n in names if n.endswith((".safetensors", ".bin", ".pth", ".pt"))), None)
    if weights is not None:
        return f"it has {weights} but no config.json beside it; download the whole checkpoint"
    below = next((n for n in names if (folder / n / "config.json").is_file()), None)
    if below is not None:
        return f"but {folder / below} does; give that folder"
    return (
        "expected config.json with safetensors, params.json with consolidated.*.pth, or a .gguf file"
    )
