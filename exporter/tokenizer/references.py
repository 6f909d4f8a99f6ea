"""The libraries that formats belong to, which say what a tokenizer must give.

Each reads the file itself; `added` and the table are what the runner's reader found, with the files beside.
"""

from dataclasses import dataclass
from typing import Protocol

import sentencepiece
import tiktoken
import tokenizers
from tokenizers.models import WordLevel

from exporter.formats import protobuf_wire as wire
from exporter.tokenizer.engine import takes_prefix
from exporter.tokenizer.raw import Added, RawTokenizer
from exporter.tokenizer.table import AddedFlag, Flag, PieceType, Table

_REST = "\0rest"  # what no text between added tokens is


class Reference(Protocol):
    """`encode` adds no bos; `decode` skips special tokens."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


def reference_of(data: bytes, raw: RawTokenizer) -> Reference:
    """The library's tokenizer of a file's bytes. Raises ValueError where the library refuses them."""
    if raw.kind == "huggingface":
        return HuggingFaceReference(_library_tokenizer(data.decode(), raw))
    if raw.kind == "sentencepiece":
        # SentencePiece itself finds its symbols: those tokens that are looked for in normalized text.
        symbols = {token.id for token in raw.table.added if AddedFlag.NORMALIZED in token.flags}
        listed = {token.id for token in raw.table.added} - symbols
        return SentencePieceReference(data, [t for t in raw.added if t.id in listed], raw.table)
    return TiktokenReference(_encoding(raw), frozenset(token.id for token in raw.added if token.special))


@dataclass(frozen=True)
class HuggingFaceReference:
    tokenizer: tokenizers.Tokenizer

    def encode(self, text: str) -> list[int]:
        return library_encode(self.tokenizer, text).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def _library_tokenizer(text: str, raw: RawTokenizer) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"tokenizers refuses the tokenizer.json: {error}") from None
    wanted = "Unigram" if Flag.UNIGRAM in raw.table.flags else "BPE"
    kind = type(tokenizer.model).__name__
    if kind != wanted:
        raise ValueError(f"tokenizers takes the tokenizer.json's model for {kind}, and not for {wanted}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    own = _added_tokens(tokenizer)
    tokenizer.add_tokens([_to_library(token) for token in raw.added if own.get(token.id) != token])
    known = _added_tokens(tokenizer)
    for token in raw.added:
        if known.get(token.id) != token:
            raise ValueError(f"tokenizers does not give the added token {token.content!r} the id {token.id}: "
                             "correct the file that lists it")  # fmt: skip
    return tokenizer


def _added_tokens(tokenizer: tokenizers.Tokenizer) -> dict[int, Added]:
    return {
        id: Added(id, t.content, t.special, t.normalized, t.lstrip, t.rstrip, t.single_word)
        for id, t in tokenizer.get_added_tokens_decoder().items()
    }


def _to_library(token: Added) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content, special=token.special, normalized=token.normalized, lstrip=token.lstrip,
        rstrip=token.rstrip, single_word=token.single_word,
    )  # fmt: skip


def library_encode(tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    """The library's encoding, without a bos. Raises ValueError where the library panics."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except BaseException as error:  # a panic's class cannot be imported
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"tokenizers cannot encode {text!r}: {error}") from None


class SentencePieceReference:
    """The sentencepiece library, and `tokenizers` for the added tokens, which the former lacks."""

    def __init__(self, model: bytes, tokens: list[Added], table: Table):
        self._processor = _processor(model if Flag.PREFIX_SPACE in table.flags else _without_prefix(model))
        self._unprefixed = _processor(_without_prefix(model))
        self._flags, self._types = table.flags, table.types
        # Decodes the siblings' tokens too, as pieces of its own.
        known = self._processor.get_piece_size()
        self._decoder = _processor(model + b"".join(
            wire.field(1, wire.field(1, text) + wire.field(3, int(PieceType.USER_DEFINED)))
            for text in table.pieces[known:]
        ))  # fmt: skip
        self.finder = tokenizers.Tokenizer(WordLevel({_REST: 0}, unk_token=_REST))
        self.finder.add_tokens([_to_library(token) for token in tokens])
        self._ids = {self.finder.token_to_id(token.content): token.id for token in tokens}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        found = library_encode(self.finder, text)
        for id, (start, stop) in zip(found.ids, found.offsets, strict=True):
            ids += [self._ids[id]] if id in self._ids else self._plain(text[start:stop], start == 0)
        return ids

    def decode(self, ids: list[int]) -> str:
        return self._decoder.decode([id for id in ids if self._types[id] != PieceType.CONTROL])

    def _plain(self, text: str, first: bool) -> list[int]:
        prefix = takes_prefix(text, self._flags, first)
        return (self._processor if prefix else self._unprefixed).encode(text)


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(f"sentencepiece refuses the model: {error}") from None
    return processor


def _without_prefix(model: bytes) -> bytes:
    """The model with add_dummy_prefix off: of a message that is there twice the last field counts."""
    return model + wire.field(3, wire.field(3, 0))


@dataclass(frozen=True)
class TiktokenReference:
    encoding: tiktoken.Encoding
    special: frozenset[int]

    def encode(self, text: str) -> list[int]:
        return self.encoding.encode(text, allowed_special="all")

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode([id for id in ids if id not in self.special])


def _encoding(raw: RawTokenizer) -> tiktoken.Encoding:
    """Ids take the place of ranks, which they are in the order of."""
    table = raw.table
    ranks = {table.pieces[id]: id for id, type in enumerate(table.types) if type == PieceType.NORMAL}
    special = {token.content: token.id for token in raw.added}
    return tiktoken.Encoding(raw.kind, pat_str=table.splits[0], mergeable_ranks=ranks, special_tokens=special)
