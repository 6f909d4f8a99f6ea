"""What an artifact says of itself, and how it reaches the disk.

One set of keys for every backend: constant methods of a `.pte`, the metadata map of a `.pt2`, a
`.so.json` beside a bare `.so`. All values are strings. `runner/metadata.h` reads the same keys;
`docs/artifact.md` describes them.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from exporter.config import ModelConfig

SCHEMA_VERSION = "1"
KERNEL_LAYOUT_VERSION = "0"  # no packed weights of our own yet
TOKENIZER_KEY = "tokenizer"


def model_metadata(
    name: str, config: ModelConfig, context_length: int, dtype: str, quantization: str
) -> dict[str, str]:
    """The keys that describe the decoder."""
    return {
        "model_name": name,
        "model_family": config.family,
        "vocab_size": str(config.vocab_size),
        "context_length": str(context_length),
        "n_layers": str(config.n_layers),
        "n_heads": str(config.n_heads),
        "n_kv_heads": str(config.n_kv_heads),
        "head_dim": str(config.head_dim),
        "dim": str(config.dim),
        "dtype": dtype,
        "quantization": quantization,
    }


def sampling_defaults(generation: Mapping[str, object]) -> str:
    """The sampling keys of a `generation_config.json`, as JSON for the key `sampling`."""
    kept = {}
    if generation.get("do_sample", True):
        for key in ("temperature", "top_p", "top_k", "min_p"):
            value = generation.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                kept[key] = value
    else:
        kept["temperature"] = 0.0
    return json.dumps(kept)


def versions(exporter: str, **libraries: str) -> dict[str, str]:
    """The version keys; a library that took no part has the value ""."""
    named = {f"{name}_version": version for name, version in libraries.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "kernel_layout_version": KERNEL_LAYOUT_VERSION,
        "exporter_version": exporter,
        **named,
    }


def check_writable(path: Path) -> None:
    """Raise OSError with the remedy when a file cannot be written at `path`.

    Called before work starts, so that minutes of it are not lost to a wrong folder.
    """
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; create it or choose another output path")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it as the output")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: cannot write there ({error.strerror}); choose another output path"
        ) from None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to `path` on success, removed otherwise.

    Raises OSError naming `path` and the remedy when the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        part = folder / path.name
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"{path}: the disk is full; free some room and export again") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
