"""Describe an artifact in its metadata: typed until it is written, then one map of strings.

One set of keys for every backend: constant methods of a `.pte`, the metadata map of a `.pt2`, a
`.so.json` beside a bare `.so`. `runner/model/metadata.h` reads the same keys; `docs/artifact.md` describes
them.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact.contents import CHOSEN_KEY, EXPERTS_KEY
from exporter.model.config import ModelConfig
from exporter.model.rotation import Rotation
from exporter.recipe.recipe import Recipe

SCHEMA_VERSION = "6"
GROWTH_SCHEMA_VERSION = "7"  # the first whose runners multiply queries by factors of their positions
TOKENIZER_KEY = "tokenizer"
STATE_KEY = "state"
SELF_TEST_KEY = "self_test"  # exporter/pipeline/self_test.py makes it
ADAPTERS_KEY = "adapters"
TOKEN_SOURCES_KEY = "token_sources"  # exporter/tokenizer/end_tokens.py writes it


@dataclass(frozen=True)
class Versions:
    """The versions of what made an artifact; "" for a library, or operators of ours, that took no part.

    `kernel_layout` of kernels/layout.h is the first that reads all packed weights.
    """

    kernel_layout: int
    operators: str
    exporter: str
    torch: str
    torchao: str
    executorch: str

    def to_strings(self) -> dict[str, str]:
        """Return the keys of versions."""
        return {
            "kernel_layout_version": str(self.kernel_layout),
            "operators_version": self.operators,
            "exporter_version": self.exporter,
            "torch_version": self.torch,
            "torchao_version": self.torchao,
            "executorch_version": self.executorch,
        }


@dataclass(frozen=True)
class TextMetadata:
    """What a runner makes texts and tokens by: the tokenizer and its `table`, ids (-1: none), chat template
    and sampling settings; all but the settings as docs/artifact.md has them in JSON."""

    tokenizer_kind: str
    table: bytes
    n_pieces: int
    bos_id: int
    eos_id: int
    add_bos: bool
    stop_ids: tuple[int, ...]
    token_sources: Mapping[str, object]
    chat: Mapping[str, object]
    sampling: str  # JSON already

    def to_strings(self) -> dict[str, str]:
        """Return the keys of tokenizer, chat and sampling, the table in base64."""
        return {
            "tokenizer_kind": self.tokenizer_kind,
            "tokenizer_size": str(len(self.table)),
            "n_pieces": str(self.n_pieces),
            "bos_id": str(self.bos_id),
            "eos_id": str(self.eos_id),
            "add_bos": str(self.add_bos).lower(),
            "stop_ids": json.dumps(self.stop_ids),
            TOKEN_SOURCES_KEY: json.dumps(self.token_sources, ensure_ascii=False),
            "chat": json.dumps(self.chat, ensure_ascii=False, separators=(",", ":")),
            "sampling": self.sampling,
            TOKENIZER_KEY: base64.b64encode(self.table).decode(),
        }


@dataclass(frozen=True)
class StateMetadata:
    """What a program on our operators needs of a state: (key/value heads, head width, rotary embedding or -1)
    of each layer, each rotary embedding, the default type of the caches, the model's own context length, the
    sessions that a forward takes, and a digest of the model."""

    layers: tuple[tuple[int, int, int], ...]
    rotations: tuple[Rotation, ...]
    cache_dtype: str
    longest_context: int
    max_segments: int
    model_digest: str

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> "StateMetadata":
        """Read the keys of states of an artifact's metadata. Raises ValueError where one is missing or
        damaged."""
        try:
            state = json.loads(strings[STATE_KEY])
            layers = tuple(
                (int(layer["kv_heads"]), int(layer["head_dim"]), int(layer["rope"]))
                for layer in state["layers"]
            )
            rotations = tuple(map(Rotation.from_json, state["frequencies"]))
            numbers = (int(strings[key]) for key in ("longest_context", "max_segments"))
            return cls(layers, rotations, strings["cache_dtype"], *numbers, strings["model_digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its metadata {STATE_KEY!r} are damaged ({error})") from None

    def to_strings(self) -> dict[str, str]:
        """Return the keys of states."""
        layers = [dict(zip(("kv_heads", "head_dim", "rope"), layer, strict=True)) for layer in self.layers]
        return {
            STATE_KEY: json.dumps({"layers": layers, "frequencies": [r.to_json() for r in self.rotations]}),
            "cache_dtype": self.cache_dtype,
            "longest_context": str(self.longest_context),
            "max_segments": str(self.max_segments),
            "model_digest": self.model_digest,
        }


@dataclass(frozen=True)
class CacheMetadata:
    """The KV caches that a program of AOTInductor on stock operators takes as inputs."""

    count: int
    key_shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    dtype: str

    def to_strings(self) -> dict[str, str]:
        """Return the keys of caches."""
        return {
            "n_caches": str(self.count),
            "key_cache_shape": json.dumps(self.key_shape),
            "value_cache_shape": json.dumps(self.value_shape),
            "cache_dtype": self.dtype,
        }


@dataclass(frozen=True)
class CodeMetadata:
    """What AOTInductor's code runs on, what it calls there, and where its weights lie beside it."""

    runtime: str
    targets: Sequence[Mapping[str, object]]
    host_functions: Sequence[str]
    host_interface: str
    weights: Sequence[Mapping[str, object]]

    def to_strings(self) -> dict[str, str]:
        """Return the keys of compiled code."""
        return {
            "runtime": self.runtime,
            "targets": json.dumps(self.targets),
            "host_functions": json.dumps(self.host_functions),
            "host_interface": self.host_interface,
            "weights": json.dumps(self.weights),
        }


@dataclass(frozen=True)
class Metadata:
    """Everything that an artifact says of itself; `backend` and what is for AOTInductor alone (`caches`,
    `code`) are added when it is lowered."""

    versions: Versions
    model_name: str
    config: ModelConfig
    context_length: int
    dtype: str
    recipe: Recipe
    delegate: str
    max_chunk: int
    max_rows: int
    text: TextMetadata
    checkpoint_digest: str
    adapters: Sequence[Mapping[str, object]] = ()  # name, scale and digest of each that was merged
    state: StateMetadata | None = None  # on our operators
    self_test: Mapping[str, object] | None = None  # none of a model that is not written
    backend: str | None = None
    caches: CacheMetadata | None = None
    code: CodeMetadata | None = None

    def to_strings(self) -> dict[str, str]:
        """Return every key and its value, the tokenizer's table in base64."""
        grows = self.state is not None and any(each.query_factors for each in self.state.rotations)
        strings = {
            "schema_version": GROWTH_SCHEMA_VERSION if grows else SCHEMA_VERSION,
            **self.versions.to_strings(),
            "model_name": self.model_name,
            **shape_strings(self.config),
            "context_length": str(self.context_length),
            "dtype": self.dtype,
            "quantization": self.recipe.to_json(),
            "delegate": self.delegate,
            "max_chunk": str(self.max_chunk),
            "max_rows": str(self.max_rows),
            **self.text.to_strings(),
            "checkpoint_digest": self.checkpoint_digest,
        }
        if self.adapters:
            strings[ADAPTERS_KEY] = json.dumps(self.adapters, ensure_ascii=False)
        if self.backend is not None:
            strings["backend"] = self.backend
        if self.self_test is not None:
            strings[SELF_TEST_KEY] = json.dumps(self.self_test, ensure_ascii=False)
        for part in (self.state, self.caches, self.code):
            if part is not None:
                strings |= part.to_strings()
        return strings


def shape_strings(config: ModelConfig) -> dict[str, str]:
    """Return the keys that describe the checkpoint's decoder; heads are those of its first layer, experts
    those of the first layer that has some."""
    attention = config.layers[0].attention
    experts = [spec for layer in config.layers if (spec := layer.feed_forward.experts) is not None]
    return {
        "model_family": config.family,
        "vocab_size": str(config.vocab_size),
        "n_layers": str(config.n_layers),
        "n_heads": str(attention.n_heads),
        "n_kv_heads": str(attention.n_kv_heads),
        "head_dim": str(attention.head_dim),
        "dim": str(config.dim),
        **({EXPERTS_KEY: str(experts[0].count), CHOSEN_KEY: str(experts[0].chosen)} if experts else {}),
    }


def sidecar_of(library: Path) -> Path:
    """Return where the metadata of a bare `.so` lies."""
    return library.with_name(library.name + ".json")


def stored_adapters(metadata: Mapping[str, str]) -> list[Mapping[str, object]]:
    """Return what an artifact says of the adapters in its weights: name, scale and digest of each.

    What is not as the exporter writes it is left out.
    """
    try:
        found = json.loads(metadata.get(ADAPTERS_KEY, "[]"))
    except ValueError:
        return []
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [entry for entry in entries if entry.keys() >= {"name", "scale", "digest"}]


def adapter_line(entry: Mapping[str, object]) -> str:
    """Describe one of `stored_adapters`: name, scale, the digest's beginning."""
    scale = "" if entry["scale"] == 1 else f" times {entry['scale']}"
    return f"{entry['name']}{scale} ({str(entry['digest'])[:16]})"


def source_lines(sources: object) -> Iterator[str]:
    """Describe the tokens of the key `token_sources`, read from JSON: each one's id, text and what named it.

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
