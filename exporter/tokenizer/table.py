"""The canonical tokenizer table: one binary form for every source format.

The table is what an artifact stores and what `runner/text/tokenizer_table.cpp` reads. All integers are
little endian, sections follow each other without padding, and the total length is exact:

    char[8]  magic "TOKTABLE"
    u32      version            u32  flags (class Flag)
    u32      n_pieces           u32  n_merges
    u32      n_added            u32  n_splits
    u32      n_bytes (of the byte pool)
    i32      bos_id             i32  eos_id             i32  unk_id      (-1 = none)
    u32[n_pieces]  length of each piece
    u8[n_pieces]   type of each piece (class PieceType)
    f32[n_pieces]  score of each piece          only with Flag.MERGE_BY_SCORE
    n_merges x (u32 left, u32 right, u32 result)   in order of rank; none with MERGE_BY_SCORE
    n_added  x (u32 id, u32 flags (class AddedFlag), u32 length of the matched text)
    u32[n_splits]  length of each split pattern
    3 x u32, 3 x triples of u32    of class NormalForm    only with Flag.NFC
    u8[n_bytes]    pieces, then the added tokens' matched texts, then the patterns (UTF-8)

The version is the lowest that has what the table uses: 3 with Flag.NFC, else 2. How text becomes ids is
written down once in `tokenizer/engine.py`.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

MAGIC = b"TOKTABLE"
HEADER = struct.Struct("<8s7I3i")
SPACE_MARK = "\u2581"  # the lower one eighth block, which stands for a space in pieces


class PieceType(IntEnum):
    """The numbers are SentencePiece's and GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # a special token: no text when decoded
    USER_DEFINED = 4  # an added token whose text is kept when decoded
    UNUSED = 5  # never produced by encoding
    BYTE = 6  # byte fallback; the piece is that one byte


class Flag(IntFlag):
    BYTE_UNITS = 1 << 0  # BPE starts from bytes (GPT-2, tiktoken), else from characters
    MERGE_BY_SCORE = 1 << 1  # two symbols merge when their text is a piece; highest score first
    IGNORE_MERGES = 1 << 2  # a part that is itself a piece is that piece
    BYTE_FALLBACK = 1 << 3  # an unknown character becomes its bytes' BYTE pieces
    FUSE_UNK = 1 << 4  # neighbouring unknown characters give one unk_id
    PREFIX_SPACE = 1 << 5  # text begins with a space that was not written
    ESCAPE_SPACES = 1 << 6  # a space becomes SPACE_MARK
    COLLAPSE_SPACES = 1 << 7  # runs of spaces become one; none at the ends
    METASPACE = 1 << 8  # escape (and prefix, where absent) after added tokens are found
    PREFIX_FIRST_ONLY = 1 << 9  # prefix only at the start of the text, not after added tokens
    STRIP_DECODED_SPACE = 1 << 10  # decoding drops one space at the start of the text
    ADD_BOS = 1 << 11  # the reference puts bos before a text by default
    PREFIX_UNLESS_SPACE = 1 << 12  # after added tokens no prefix before text that begins with a space
    NFC = 1 << 13  # text is brought into Unicode's normal form C, by the table's own data


class AddedFlag(IntFlag):
    IN_TEXT = 1 << 0  # always set; tables of version 1 lack it for SentencePiece's control tokens
    LSTRIP = 1 << 1  # takes the white space before it
    RSTRIP = 1 << 2  # takes the white space after it
    NORMALIZED = 1 << 3  # looked for in the normalized text, not in the text as written
    SINGLE_WORD = 1 << 4  # not where a word character is on either side
    LATE = 1 << 5  # looked for in the text as written, in what tokens without the flag leave


@dataclass(frozen=True)
class AddedToken:
    id: int
    text: bytes  # what is looked for: normalized already if NORMALIZED
    flags: AddedFlag


_Triples = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class NormalForm:
    """What normal form C needs to know of characters, but for Hangul syllables, which are computed.

    Numbers are code points, and each list is ascending, so that it can be searched as it is.
    """

    decompositions: _Triples = ()  # (character, first, second): first may decompose further; second 0: none
    compositions: _Triples = ()  # (first, second, character)
    classes: _Triples = ()  # (last character of a range, its first, their combining class); others have 0

    def to_bytes(self) -> bytes:
        lists = (self.decompositions, self.compositions, self.classes)
        return _packed("I", map(len, lists)) + b"".join(_packed("I", _flat(triples)) for triples in lists)


@dataclass(frozen=True)
class Table:
    """`pieces`, `types` and `scores` are indexed by token id; `scores` may be empty."""

    flags: Flag
    pieces: tuple[bytes, ...]
    types: bytes
    scores: tuple[float, ...] = ()
    merges: tuple[tuple[int, int, int], ...] = ()
    added: tuple[AddedToken, ...] = ()
    splits: tuple[str, ...] = ()
    bos_id: int = -1
    eos_id: int = -1
    unk_id: int = -1
    normal_form: NormalForm = NormalForm()  # with Flag.NFC

    def to_bytes(self) -> bytes:
        patterns = [pattern.encode() for pattern in self.splits]
        pool = b"".join([*self.pieces, *(token.text for token in self.added), *patterns])
        header = HEADER.pack(
            MAGIC,
            3 if Flag.NFC in self.flags else 2,
            int(self.flags),
            len(self.pieces),
            len(self.merges),
            len(self.added),
            len(self.splits),
            len(pool),
            self.bos_id,
            self.eos_id,
            self.unk_id,
        )
        return b"".join(
            [
                header,
                _packed("I", (len(piece) for piece in self.pieces)),
                self.types,
                _packed("f", self.scores),
                _packed("I", _flat(self.merges)),
                _packed(
                    "I",
                    (n for t in self.added for n in (t.id, int(t.flags), len(t.text))),
                ),
                _packed("I", (len(pattern) for pattern in patterns)),
                self.normal_form.to_bytes() if Flag.NFC in self.flags else b"",
                pool,
            ]
        )


def _flat(triples: Iterable[tuple[int, int, int]]) -> Iterator[int]:
    return (number for triple in triples for number in triple)


def _packed(code: str, values) -> bytes:
    numbers = array(code, values)
    assert numbers.itemsize == 4
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
