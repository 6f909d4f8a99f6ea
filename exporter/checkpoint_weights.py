"""What every checkpoint format offers the loader, and what the formats share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from exporter.config import ModelConfig, parameter_shapes

Progress = Callable[[str], None]

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
READERS = 2  # tensors converted at a time; more would hold more memory for little gain
MAX_NAMED = 4  # tensors listed in one message


Read = Callable[[str, torch.dtype], Tensor]


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors under the names they are stored by.

    `open()` gives `read(name, dtype)`, which returns one tensor in `dtype`, a view of the mapped file
    where it can; the file stays mapped as long as `read` or a view is there.
    `modules` maps canonical module names, `{i}` being the layer, to stored ones. `ignored` holds
    patterns of stored names that carry nothing. `interleaved` says that the rotary pairs of wq and
    wk are neighbouring rows, not half a head apart.
    """

    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    open: Callable[[], Read]
    modules: Mapping[str, str]
    ignored: tuple[str, ...]
    interleaved: bool

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor, of a mapping of its own."""
        return self.open()(name, dtype)

    def stored_name(self, canonical: str) -> str:
        module, suffix = canonical.rsplit(".", 1)
        parts = module.split(".", 2)
        if parts[0] != "layers":
            return f"{self.modules[module]}.{suffix}"
        stored = self.modules[f"layers.{{i}}.{parts[2]}"].replace("{i}", parts[1])
        return f"{stored}.{suffix}"


@dataclass(frozen=True)
class Source:
    """What a format's reader found."""

    config: ModelConfig
    weights: Weights
    tokenizer_path: Path | None
    generation: Mapping[str, object]
    token_ids: Mapping[str, object] = field(default_factory=dict)  # config.json's bos_token_id, eos_token_id


def check_names_and_shapes(weights: Weights, config: ModelConfig, where: Path) -> None:
    """Raises ValueError naming the tensors that are missing, extra or misshapen."""
    expected = {
        weights.stored_name(name): shape for name, shape in parameter_shapes(config).items()
    }
    missing = [name for name in expected if name not in weights.shapes]
    extra = [
        name
        for name in weights.shapes
        if name not in expected
        and not any(fnmatchcase(name, pattern) for pattern in weights.ignored)
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
            f"{where}: the tensors do not fit the config ({'; '.join(faults)}): "
            "download the checkpoint again, or give one of a supported architecture"
        )


def canonical_state_dict(
    weights: Weights,
    config: ModelConfig,
    dtype: torch.dtype,
    names: Sequence[str],
    progress: Progress,
) -> dict[str, Tensor]:
    """The parameters `names` under these canonical names in `dtype`, a few converted at a time."""
    report = at_most_once_a_second(progress)
    read_stored = weights.open()

    def read(name: str) -> Tensor:
        tensor = read_stored(weights.stored_name(name), dtype)
        if weights.interleaved and name.split(".")[-2] in ("wq", "wk"):
            tensor = half_split(tensor, config.head_dim)
        return tensor

    state = {}
    with ThreadPoolExecutor(READERS) as pool:
        for name, tensor in zip(names, pool.map(read, names), strict=True):
            state[name] = tensor
            report(f"reading weights: {len(state)} of {len(names)} tensors")
    return state


def half_split(rows: Tensor, head_dim: int) -> Tensor:
    """Reorders each head's rows from pairs (2j, 2j + 1) to pairs (j, j + head_dim / 2).

    `rows` is the weight [heads * head_dim, dim] or bias [heads * head_dim] of wq or wk. Hugging
    Face's convert_llama_weights_to_hf.py does the same to Meta's weights, and llama.cpp's converter
    undoes it.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def to_dtype(tensor: Tensor, dtype: torch.dtype, name: str, path: Path) -> Tensor:
    """The tensor itself when it already has `dtype`, else a copy."""
    if tensor.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"{path}: tensor {name} holds {str(tensor.dtype).removeprefix('torch.')}, not floats: "
            "use the checkpoint in its original precision"
        )
    return tensor.to(dtype)


def equal_tensors(weights: Weights, first: str, second: str) -> bool:
    """Whether two stored matrices are equal; those that differ mostly do so in the first row."""
    if weights.shapes[first] != weights.shapes[second]:
        return False
    read = weights.open()
    a, b = (read(name, torch.float32) for name in (first, second))
    return torch.equal(a[0], b[0]) and torch.equal(a, b)


def load_torch_file(path: Path) -> dict[str, object]:
    """Maps a file of `torch.save`, tensors and plain values only.

    Raises ValueError for a damaged file or one that holds other objects.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged pickles raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a PyTorch checkpoint of tensors ({reason}): "
            "download it again, or convert it to safetensors"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not named tensors: give a checkpoint file"
        )
    return content


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file; ValueError when it is not one, OSError when it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: download the whole checkpoint") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object: download it again")
    return content


def first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def at_most_once_a_second(progress: Progress) -> Progress:
    """Drops messages that come within a second of the start or of the last one let through."""
    last = time.monotonic()

    def report(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1.0:
            last = now
            progress(text)

    return report
