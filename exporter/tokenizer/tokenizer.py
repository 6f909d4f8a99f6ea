"""Tokenizers of every supported format, brought into the canonical table and checked.

`read_tokenizer` has the runner's reader make the table (`raw`), and compares a plain engine over it
(`engine`) with the format's own reference library (`references`) on a multilingual sample (`sample`): an
artifact never carries a table that tokenizes otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from exporter.formats.gguf_file import read_gguf
from exporter.tokenizer import from_gguf
from exporter.tokenizer.config import read_config, read_template
from exporter.tokenizer.engine import Engine
from exporter.tokenizer.raw import read_raw
from exporter.tokenizer.references import Reference, reference_of
from exporter.tokenizer.sample import SAMPLE
from exporter.tokenizer.special_tokens import gguf_ends, gguf_named_tokens, named_tokens
from exporter.tokenizer.table import Flag, PieceType, Table

_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json")


@dataclass(frozen=True)
class Tokenizer:
    kind: str  # "sentencepiece" | "tiktoken" | "tekken" | "huggingface" | "gguf"
    source: Table = field(repr=False)
    reference: Reference = field(repr=False, compare=False)
    chat_template: str | None = field(default=None, repr=False)
    named_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # "bos_token": "<s>"
    declared_ends: Mapping[str, object] = field(default_factory=dict, repr=False)  # a GGUF's keys and ids

    @cached_property
    def table(self) -> bytes:
        """The canonical table, as stored in artifacts."""
        return self.source.to_bytes()

    @property
    def n_pieces(self) -> int:
        return len(self.source.pieces)

    @property
    def n_text_pieces(self) -> int:
        """One more than the largest id that text becomes where it holds no added token."""
        text = (PieceType.NORMAL, PieceType.BYTE, PieceType.UNKNOWN)
        return max((id + 1 for id, type in enumerate(self.source.types) if type in text), default=0)

    @property
    def bos_id(self) -> int | None:
        return self.source.bos_id if self.source.bos_id >= 0 else None

    @property
    def eos_id(self) -> int | None:
        return self.source.eos_id if self.source.eos_id >= 0 else None

    @property
    def add_bos(self) -> bool:
        return Flag.ADD_BOS in self.source.flags

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Names and ids of the tokens that have no text."""
        pieces, types = self.source.pieces, self.source.types
        return {
            pieces[id].decode(): id for id, type in enumerate(types) if type == PieceType.CONTROL
        }

    def token_name(self, id: int | None) -> str:
        """The text of one token as templates write it, "" for None."""
        if id is None:
            return ""
        names = [token.text for token in self.source.added if token.id == id]
        return (names or [self.source.pieces[id]])[0].decode(errors="replace")

    def encode(self, text: str) -> list[int]:
        """Ids by the reference library, without bos."""
        return self.reference.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text by the reference library, without special tokens."""
        return self.reference.decode(list(ids))


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads tokenizer.json, tekken.json, tokenizer.model (SentencePiece or tiktoken) or a .gguf's vocabulary.

    A folder stands for the first of these in it. tokenizer_config.json and
    chat_template.jinja are read where they lie beside the file. Raises OSError for files that
    cannot be read, and ValueError for formats and components that are not supported, and for a
    table that does not tokenize the sample as the reference library does.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in _FILES if (path / name).exists()), path / _FILES[0])
    try:
        tokenizer = _read(path)
        _check(tokenizer)
    except ValueError as error:
        raise ValueError(f"tokenizer {path}: {error}") from None
    return tokenizer


def _read(path: Path) -> Tokenizer:
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"GGUF":
        return _read_gguf(path)
    data = path.read_bytes()
    raw = read_raw(data, path)
    config = read_config(path)
    names = named_tokens(config, raw.table, whole=raw.kind != "huggingface")
    return Tokenizer(raw.kind, raw.table, reference_of(data, raw), read_template(path, config), names)


def _read_gguf(path: Path) -> Tokenizer:
    metadata = read_gguf(path).fields
    model = metadata.get("tokenizer.ggml.model")
    try:
        if model == "gpt2":
            data = from_gguf.huggingface_json(metadata).encode()
        elif model == "llama":
            data = from_gguf.sentencepiece_model(metadata)
        else:
            raise ValueError(f"GGUF tokenizer model {model!r} is not supported: gpt2, llama are")
        bos_id, eos_id, add_bos = from_gguf.token_ids(metadata)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"GGUF tokenizer metadata is damaged: {error!r}") from None
    raw = read_raw(data)
    table, reference = raw.table, reference_of(data, raw)
    flags = table.flags | Flag.ADD_BOS if add_bos else table.flags & ~Flag.ADD_BOS
    table = replace(table, flags=flags, bos_id=bos_id, eos_id=eos_id)
    template = metadata.get("tokenizer.chat_template")
    names, ends = gguf_named_tokens(metadata, table), gguf_ends(metadata)
    return Tokenizer("gguf", table, reference, template, names, ends)


def _check(tokenizer: Tokenizer) -> None:
    engine = Engine(tokenizer.source)
    names = (token.text.decode() for token in tokenizer.source.added)
    for text in (*SAMPLE, *(f"a{name}b {name} c" for name in names)):
        want, got = tokenizer.encode(text), engine.encode(text)
        if want != got:
            raise ValueError(
                f"its canonical table does not tokenize as the {tokenizer.kind} reference:"
                f" {text!r} gives {got}, not {want}; please report it with this file"
            )
        # What the libraries do with special tokens in between differs, and no text depends on it.
        ids = [id for id in want if tokenizer.source.types[id] != PieceType.CONTROL]
        if engine.decode(ids) != tokenizer.decode(ids):
            raise ValueError(
                f"its canonical table does not decode as the {tokenizer.kind} reference: {ids}"
                f" gives {engine.decode(ids)!r}, not {tokenizer.decode(ids)!r}; please report it"
                " with this file"
            )
