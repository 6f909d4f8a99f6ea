"""SentencePiece `tokenizer.model` files (BPE) to the canonical table.

Source: sentencepiece/src/sentencepiece_model.proto, model_interface.cc, bpe_model.cc.
"""

import struct
from dataclasses import dataclass

import sentencepiece

from exporter import protobuf_wire as wire
from exporter.tokenizer_table import AddedFlag, AddedToken, Flag, PieceType, Table

_MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}


@dataclass(frozen=True)
class SentencePieceReference:
    """The sentencepiece library itself; it never recognises control tokens in a text."""

    processor: sentencepiece.SentencePieceProcessor

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)


def read_sentencepiece(model: bytes) -> tuple[Table, SentencePieceReference]:
    """Raises ValueError for damaged files and for what the table does not express."""
    table = sentencepiece_table(model)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(f"sentencepiece refuses the model: {error}") from None
    return table, SentencePieceReference(processor)


def sentencepiece_table(model: bytes) -> Table:
    """`model` is a serialized ModelProto."""
    try:
        pieces, trainer, normalizer = _parse(model)
    except ValueError as error:
        raise ValueError(f"not a SentencePiece model, or a damaged one: {error}") from None
    flags = Flag.MERGE_BY_SCORE | Flag.FUSE_UNK | _trainer_flags(trainer)
    flags |= _normalizer_flags(normalizer)
    texts, types, scores = zip(*pieces, strict=True)
    added = tuple(
        AddedToken(
            id,
            text,
            AddedFlag.IN_TEXT | AddedFlag.NORMALIZED
            if types[id] == PieceType.USER_DEFINED
            else AddedFlag(0),
        )
        for id, text in enumerate(texts)
        if types[id] in (PieceType.USER_DEFINED, PieceType.CONTROL)
    )
    unknown = [id for id, type in enumerate(types) if type == PieceType.UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"a SentencePiece model has one unknown piece; this one {len(unknown)}")

    def control_id(field: int, default: bytes) -> int:
        name = trainer.get(field, default)
        return next((t.id for t in added if t.text == name and not t.flags), -1)

    bos_id = control_id(46, b"<s>")
    surface = trainer.get(44, " \u2047 ".encode())
    return Table(
        flags=flags | (Flag.ADD_BOS if bos_id >= 0 else Flag(0)),
        pieces=tuple(_canonical(t, k, surface) for t, k in zip(texts, types, strict=True)),
        types=bytes(types),
        scores=scores,
        added=added,
        bos_id=bos_id,
        eos_id=control_id(47, b"</s>"),
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
            if type not in set(map(int, PieceType)) or not text:
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
