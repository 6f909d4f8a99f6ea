"""SentencePiece `tokenizer.model` files (BPE) to the canonical table.

Control tokens, and what the files beside the model add, are added tokens as transformers makes them
of such a folder. Sources: sentencepiece/src/sentencepiece_model.proto, model_interface.cc,
bpe_model.cc; transformers 5.23, convert_slow_tokenizer.py (SentencePieceExtractor) and
models/llama/tokenization_llama.py.
"""

import struct
from collections.abc import Sequence
from dataclasses import replace

import sentencepiece
import tokenizers
from tokenizers.models import WordLevel

from exporter.formats import protobuf_wire as wire
from exporter.tokenizer.engine import takes_prefix
from exporter.tokenizer.library import library_encode, to_library
from exporter.tokenizer.siblings import Added, Siblings, check_ids, content_of
from exporter.tokenizer.table import AddedFlag, AddedToken, Flag, PieceType, Table

_MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
_PIECE_TYPES = frozenset(map(int, PieceType))
_REST = "\0rest"  # what no text between added tokens is


class SentencePieceReference:
    """The sentencepiece library, and `tokenizers` for the added tokens, which the former lacks."""

    def __init__(self, model: bytes, tokens: Sequence[Added], table: Table):
        self._processor = _processor(model)
        self._unprefixed = _processor(without_prefix(model))
        self._flags, self._types = table.flags, table.types
        # Decodes the siblings' tokens too, as pieces of its own.
        known = self._processor.get_piece_size()
        self._decoder = _processor(model + b"".join(
            wire.field(1, wire.field(1, text) + wire.field(3, int(PieceType.USER_DEFINED)))
            for text in table.pieces[known:]
        ))  # fmt: skip
        self.finder = tokenizers.Tokenizer(WordLevel({_REST: 0}, unk_token=_REST))
        self.finder.add_tokens([to_library(token) for token in tokens])
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


def read_sentencepiece(model: bytes, siblings: Siblings) -> tuple[Table, SentencePieceReference]:
    """Raises ValueError for damaged files and for what the table does not express."""
    if siblings.config.get("add_prefix_space") is False:
        model = without_prefix(model)
    try:
        pieces, trainer, normalizer = _parse(model)
    except ValueError as error:
        raise ValueError(f"not a SentencePiece model, or a damaged one: {error}") from None
    flags = Flag.MERGE_BY_SCORE | Flag.FUSE_UNK | _trainer_flags(trainer)
    flags |= _normalizer_flags(normalizer)
    if Flag.PREFIX_SPACE in flags:
        legacy = siblings.config.get("legacy") is True
        flags |= Flag.PREFIX_UNLESS_SPACE if legacy else Flag.PREFIX_FIRST_ONLY
    tokens = _added(pieces, siblings)
    table = _table(pieces, trainer, flags, tokens, siblings.config)
    found = [token for token in tokens if not _is_symbol(token, pieces)]
    return table, SentencePieceReference(model, found, table)


def without_prefix(model: bytes) -> bytes:
    """The model with add_dummy_prefix off: of a message that is there twice the last field counts."""
    return model + wire.field(3, wire.field(3, 0))


_Piece = tuple[bytes, int, float]  # text, type, score


def _added(pieces: list[_Piece], siblings: Siblings) -> list[Added]:
    """All added tokens with their ids, in the order of these: the model's, and the siblings'."""
    ids = {text.decode(): id for id, (text, _, _) in reversed([*enumerate(pieces)])}
    kinds = {PieceType.CONTROL: True, PieceType.UNKNOWN: True, PieceType.USER_DEFINED: False}
    own = {
        text.decode(): Added(text.decode(), kinds[type], False, id=id)
        for id, (text, type, _) in reversed([*enumerate(pieces)])
        if type in kinds
    }
    additions = siblings.additions(own)
    new = dict.fromkeys(token.content for token in additions if token.content not in ids)
    ids |= {text: len(pieces) + i for i, text in enumerate(new)}
    check_ids(additions, ids)
    found = own | {t.content: replace(t, id=ids[t.content]) for t in additions if t.content}
    return sorted(found.values(), key=lambda token: token.id)


def _is_symbol(token: Added, pieces: list[_Piece]) -> bool:
    """Whether SentencePiece itself finds the token: a user-defined symbol that nothing redefines."""
    own = token.id < len(pieces) and pieces[token.id][1] == PieceType.USER_DEFINED
    return own and token == Added(token.content, special=False, normalized=False)


def _added_token(token: Added, symbol: bool) -> AddedToken:
    flags = AddedFlag.IN_TEXT
    if symbol:
        return AddedToken(token.id, token.content.encode(), flags | AddedFlag.NORMALIZED)
    for name, flag in (
        ("lstrip", AddedFlag.LSTRIP),
        ("rstrip", AddedFlag.RSTRIP),
        ("single_word", AddedFlag.SINGLE_WORD),
        ("normalized", AddedFlag.LATE),
    ):
        flags |= flag if getattr(token, name) else AddedFlag(0)
    return AddedToken(token.id, token.content.encode(), flags)


def _table(
    pieces: list[_Piece], trainer: dict, flags: Flag, tokens: list[Added], config: dict
) -> Table:
    unknown = [id for id, (_, type, _) in enumerate(pieces) if type == PieceType.UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"a SentencePiece model has one unknown piece; this one {len(unknown)}")
    surface = trainer.get(44, " \u2047 ".encode())
    texts = [_canonical(text, type, surface) for text, type, _ in pieces]
    types, scores = [type for _, type, _ in pieces], [score for _, _, score in pieces]
    for token in tokens:
        if token.id >= len(texts):
            texts.append(token.content.encode())
            types.append(int(PieceType.USER_DEFINED))
            scores.append(0.0)
        if token.special and types[token.id] != PieceType.UNKNOWN:
            types[token.id] = int(PieceType.CONTROL)
        elif types[token.id] in (PieceType.CONTROL, PieceType.UNUSED):
            types[token.id] = int(PieceType.USER_DEFINED)
    ids = {token.content: token.id for token in tokens}

    def named(key: str, field: int, default: bytes) -> int:
        own = trainer.get(field, default).decode(errors="replace")
        return ids.get(content_of(config.get(key)) or own, -1)

    bos_id = named("bos_token", 46, b"<s>")
    if bos_id >= 0 and config.get("add_bos_token") is not False:
        flags |= Flag.ADD_BOS
    return Table(
        flags=flags,
        pieces=tuple(texts),
        types=bytes(types),
        scores=tuple(scores),
        added=tuple(_added_token(token, _is_symbol(token, pieces)) for token in tokens),
        bos_id=bos_id,
        eos_id=named("eos_token", 47, b"</s>"),
        unk_id=unknown[0],
    )


def _parse(model: bytes) -> tuple[list[tuple[bytes, int, float]], dict, dict]:
    """Pieces as (text, type, score), and the trainer's and normalizer's fields by number."""
    pieces: list[tuple[bytes, int, float]] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in wire.fields(model):
        if number not in (1, 2, 3):
            continue
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is not a message")
        message = dict(wire.fields(value))
        if number == 1:
            text, type = message.get(1, b""), message.get(3, 1)
            score = message.get(2, bytes(4))
            if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
                raise ValueError(f"piece {len(pieces)} is malformed")
            if type not in _PIECE_TYPES or not text:
                raise ValueError(f"piece {len(pieces)} has type {type} and {len(text)} bytes")
            text.decode()
            pieces.append((text, type, struct.unpack("<f", score)[0]))
        elif number == 2:
            trainer.update(message)
        else:
            normalizer.update(message)
    if not pieces:
        raise ValueError("it holds no pieces")
    return pieces, trainer, normalizer


def _trainer_flags(trainer: dict) -> Flag:
    model_type = trainer.get(3, 1)
    if model_type != 2:
        name = _MODEL_TYPES.get(model_type, model_type)
        raise ValueError(f"SentencePiece model type {name} is not supported: only BPE is")
    if trainer.get(24, 0):
        raise ValueError("SentencePiece's treat_whitespace_as_suffix is not supported")
    return Flag.BYTE_FALLBACK if trainer.get(35, 0) else Flag(0)


def _normalizer_flags(normalizer: dict) -> Flag:
    if normalizer.get(2, b""):
        name = normalizer.get(1, b"").decode(errors="replace")
        raise ValueError(f"SentencePiece normalizer {name!r} is not supported: only identity is")
    flags = Flag(0)
    if normalizer.get(3, 1):
        flags |= Flag.PREFIX_SPACE
    if normalizer.get(4, 1):
        flags |= Flag.COLLAPSE_SPACES
    if normalizer.get(5, 1):
        flags |= Flag.ESCAPE_SPACES
    if flags & (Flag.PREFIX_SPACE | Flag.COLLAPSE_SPACES):
        flags |= Flag.STRIP_DECODED_SPACE
    return flags


def _canonical(text: bytes, type: int, unknown_surface: bytes) -> bytes:
    if type == PieceType.UNKNOWN:
        return unknown_surface
    if type != PieceType.BYTE:
        return text
    digits = text.removeprefix(b"<0x").removesuffix(b">")
    if len(text) != 6 or len(digits) != 2 or set(digits) - set(b"0123456789ABCDEF"):
        raise ValueError(f"byte piece {text!r} is not of the form <0xFF>")
    return bytes([int(digits, 16)])
