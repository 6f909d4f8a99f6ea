"""What an artifact says of itself.

One set of keys for every backend: constant methods of a `.pte`, the metadata map of a `.pt2`, a
`.so.json` beside a bare `.so`. All values are strings. `runner/model/metadata.h` reads the same keys;
`docs/artifact.md` describes them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from exporter.model.config import ModelConfig

SCHEMA_VERSION = "3"
TOKENIZER_KEY = "tokenizer"
TOKEN_SOURCES_KEY = "token_sources"  # exporter/tokenizer/end_tokens.py writes it


def shape_metadata(config: ModelConfig) -> dict[str, str]:
    """The keys that describe the checkpoint's decoder; heads are those of its first layer."""
    attention = config.layers[0].attention
    return {
        "model_family": config.family,
        "vocab_size": str(config.vocab_size),
        "n_layers": str(config.n_layers),
        "n_heads": str(attention.n_heads),
        "n_kv_heads": str(attention.n_kv_heads),
        "head_dim": str(attention.head_dim),
        "dim": str(config.dim),
    }


def model_metadata(
    name: str, config: ModelConfig, context_length: int, dtype: str, quantization: str
) -> dict[str, str]:
    """The keys that describe the artifact's decoder."""
    return {
        "model_name": name,
        **shape_metadata(config),
        "context_length": str(context_length),
        "dtype": dtype,
        "quantization": quantization,
    }


def versions(exporter: str, kernel_layout: int, **libraries: str) -> dict[str, str]:
    """The version keys: `kernel_layout` of kernels/layout.h is the first that reads all packed weights; a
    library that took no part has the value ""."""
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
