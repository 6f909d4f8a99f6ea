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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.config import ModelConfig

SCHEMA_VERSION = "3"
TOKENIZER_KEY = "tokenizer"
TOKEN_SOURCES_KEY = "token_sources"  # exporter/end_tokens.py writes it


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


def versions(exporter: str, kernel_layout: int, **libraries: str) -> dict[str, str]:
    """The version keys: `kernel_layout` of kernels/layout.h is the first that reads all packed weights; a
    library, or our operators, that took no part have the value ""."""
    named = {f"{name}_version": version for name, version in libraries.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "kernel_layout_version": str(kernel_layout),
        "exporter_version": exporter,
        **named,
    }


def sidecar_of(library: Path) -> Path:
    """Where the metadata of a bare `.so` lies."""
    return library.with_name(library.name + ".json")


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


def source_lines(sources: object) -> Iterator[str]:
    """The tokens of the key `token_sources`, read from JSON, each with its id, text and what named it.

    What is not as the exporter writes it has no line.
    """
    if not isinstance(sources, dict):
        return
    stops = sources.get("stops")
    for what, entries in (("begin", [sources.get("bos")]), ("end", stops if isinstance(stops, list) else [])):
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("from"), list):
                text = entry.get("text")
                said = "without text" if text is None else json.dumps(text, ensure_ascii=False)
                yield f"{what} {entry.get('id')} {said} ({', '.join(map(str, entry['from']))})"


def check_disk_full(message: str, output: Path | None = None) -> None:
    """Raise OSError when `message`, a compiler's or a library's in English, says that a disk is full: the
    bare one, for `disk_full_named`, or one that names the temporary folder where a file in it, and not
    `output`, could not be written."""
    for line in message.splitlines():
        if os.strerror(errno.ENOSPC) not in line and os.strerror(errno.EDQUOT) not in line:
            continue
        folder = tempfile.gettempdir()
        if f"{folder}/" in line and (output is None or str(output) not in line):
            raise OSError(f"{folder}: the disk is full; set TMPDIR to a folder with room")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def disk_full_named(where: str) -> Iterator[None]:
    """Raise OSError that names `where` and the remedy instead of the bare one of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"{where}: the disk is full; free some room and export again") from None
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to `path` on success, removed otherwise.

    Raises OSError naming `path` and the remedy when the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        part = folder / path.name
        with disk_full_named(str(path)):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
