"""Tokenizers of every supported format, brought into the canonical table and checked.

`read_tokenizer` finds the format from the content, makes the table (`table`), and
compares a plain engine over it (`engine`) with the format's own reference library on a
multilingual sample (`sample`): an artifact never carries a table that tokenizes otherwise.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from exporter.formats.gguf_file import read_gguf
from exporter.tokenizer import from_gguf
from exporter.tokenizer.engine import Engine
from exporter.tokenizer.from_hf import read_huggingface
from exporter.tokenizer.from_sentencepiece import read_sentencepiece
from exporter.tokenizer.from_tiktoken import read_tiktoken
from exporter.tokenizer.sample import SAMPLE
from exporter.tokenizer.siblings import Siblings, read_siblings, wrong_value
from exporter.tokenizer.special_tokens import gguf_ends, gguf_named_tokens, named_tokens
from exporter.tokenizer.table import Flag, PieceType, Table

_CONFIG = "tokenizer_config.json"


class Reference(Protocol):
    """The library a format belongs to. `encode` adds no bos; `decode` skips special tokens."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Tokenizer:
    kind: str  # "sentencepiece" | "tiktoken" | "huggingface" | "gguf"
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
    """Reads tokenizer.json, tokenizer.model (SentencePiece or tiktoken) or a .gguf's vocabulary.

    A folder stands for the tokenizer.json or tokenizer.model in it. tokenizer_config.json and
    chat_template.jinja are read where they lie beside the file. Raises OSError for files that
    cannot be read, and ValueError for formats and components that are not supported, and for a
    table that does not tokenize the sample as the reference library does.
    """
    path = Path(path)
    if path.is_dir():
        path = next(
            (p for p in (path / "tokenizer.json", path / "tokenizer.model") if p.exists()),
            path / "tokenizer.json",
        )
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
    siblings = read_siblings(path)
    template = _sibling_template(path, siblings.config)
    if not data:
        raise ValueError("the file is empty")
    if data.lstrip()[:1] == b"{":
        table, reference = read_huggingface(data.decode(), siblings)
        names = named_tokens(siblings.config, table, whole=False)
        return Tokenizer("huggingface", table, reference, template, names)
    kind, read = (
        ("tiktoken", read_tiktoken) if _looks_like_tiktoken(data) else ("sentencepiece", read_sentencepiece)
    )
    table, reference = read(data, siblings)
    names = named_tokens(siblings.config, table, whole=True)
    return Tokenizer(kind, table, reference, template, names)


def _looks_like_tiktoken(data: bytes) -> bool:
    """Whether the first line is `base64 0`."""
    return re.match(rb"[A-Za-z0-9+/]+=* 0(\n|\Z)", data[:4096]) is not None


def _read_gguf(path: Path) -> Tokenizer:
    metadata = read_gguf(path).fields
    model = metadata.get("tokenizer.ggml.model")
    try:
        if model == "gpt2":
            table, reference = read_huggingface(from_gguf.huggingface_json(metadata), Siblings())
        elif model == "llama":
            table, reference = read_sentencepiece(
                from_gguf.sentencepiece_model(metadata), Siblings()
            )
        else:
            raise ValueError(f"GGUF tokenizer model {model!r} is not supported: gpt2, llama are")
        bos_id, eos_id, add_bos = from_gguf.token_ids(metadata)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"GGUF tokenizer metadata is damaged: {error!r}") from None
    flags = table.flags | Flag.ADD_BOS if add_bos else table.flags & ~Flag.ADD_BOS
    table = replace(table, flags=flags, bos_id=bos_id, eos_id=eos_id)
    template = metadata.get("tokenizer.chat_template")
    names, ends = gguf_named_tokens(metadata, table), gguf_ends(metadata)
    return Tokenizer("gguf", table, reference, template, names, ends)


def _sibling_template(path: Path, config: dict) -> str | None:
    """chat_template.jinja, or tokenizer_config.json's template (of several, "default").

    Several are a list of objects, or an object of texts by names. Raises ValueError for what is no text.
    """
    sibling = path.parent / "chat_template.jinja"
    if sibling.exists():
        try:
            return sibling.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{sibling.name} beside it is not UTF-8 ({error}): convert it") from None
    given = template = config.get("chat_template")
    if isinstance(given, list):
        if not all(isinstance(entry, dict) for entry in given):
            raise wrong_value(_CONFIG, "chat_template", given, 'no list of {"name": ..., "template": ...}')
        template = next((e.get("template") for e in reversed(given) if e.get("name") == "default"), None)
    elif isinstance(given, dict):
        template = given.get("default")
    if template is not None and not isinstance(template, str):
        raise wrong_value(_CONFIG, "chat_template", template, "no text")
    return template


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
