"""Raw tokenizer files, read by the runner's own readers (runner/text/tokenizer_raw.h) in this process."""

import os
from dataclasses import dataclass
from pathlib import Path

from exporter.tokenizer.table import Table
from exporter.util import runner_modules


@dataclass(frozen=True)
class Added:
    """An added token as files describe it."""

    id: int
    content: str
    special: bool
    normalized: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class RawTokenizer:
    kind: str  # "huggingface" | "tekken" | "tiktoken" | "sentencepiece"
    table: Table
    added: tuple[Added, ...]  # all of them, in the order of their ids


def read_raw(data: bytes, beside: Path | None = None) -> RawTokenizer:
    """The tokenizer of a file's bytes and of the files that lie beside the path `beside`.

    Raises ValueError for what is damaged or not supported, FileNotFoundError where the runner is not built.
    """
    place = os.fsencode(beside) if beside else b""
    kind, table, added = runner_modules.load_core().read_raw_tokenizer(data, place)
    return RawTokenizer(kind, Table.from_bytes(table), tuple(Added(**token) for token in added))
