"""The canonical tokenizer table: one binary form for every source format.

The table is what an artifact stores; `runner/text/tokenizer_table.cpp` makes and reads it. All integers are
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
    f64[n_pieces]  the same                     only with Flag.UNIGRAM and without MERGE_BY_SCORE
    n_merges x (u32 left, u32 right, u32 result)   in order of rank; none with MERGE_BY_SCORE
    n_added  x (u32 id, u32 flags (class AddedFlag), u32 length of the matched text)
    u32[n_splits]  length of each split pattern
    u8[n_splits]   kind of each split (class SplitKind)    only with Flag.SPLIT_KINDS
    3 x u32, 3 x triples of u32    of class NormalForm    only with Flag.NFC
    u32 n, n x (u32 late, u32 length of the pattern, u32 of the content)    only with Flag.REPLACEMENTS
    u32 n, n x u32 id                           only with Flag.PREFIX_TOKENS
    u8[n_bytes]    pieces, then the added tokens' matched texts, the patterns, and of each replacement pattern
                   and content (UTF-8)

The version is the lowest that has what the table uses: 4 with a flag after NFC, 3 with NFC, else 2. How text
becomes ids is written down once in `tokenizer/engine.py`.
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
    # A part becomes the pieces with the highest sum of scores; with MERGE_BY_SCORE as SentencePiece finds it.
    UNIGRAM = 1 << 14
    REPLACEMENTS = 1 << 15  # texts are put in the place of what patterns match, before or after NFC
    SPLIT_KINDS = 1 << 16  # not all splits keep both what matches and what lies between
    PREFIX_TOKENS = 1 << 17  # ADD_BOS puts several tokens before a text in the place of bos


class SplitKind(IntEnum):
    """Which parts of a text a split pattern leaves."""

    ALL = 0
    MATCHES = 1
    BETWEEN = 2


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


@dataclass(frozen=True)
class Replacement:
    late: bool  # after NFC
    pattern: str
    content: str


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


_VERSION_4 = Flag.UNIGRAM | Flag.REPLACEMENTS | Flag.SPLIT_KINDS | Flag.PREFIX_TOKENS


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
    split_kinds: tuple[SplitKind, ...] = ()  # with Flag.SPLIT_KINDS
    normal_form: NormalForm = NormalForm()  # with Flag.NFC
    replacements: tuple[Replacement, ...] = ()  # with Flag.REPLACEMENTS
    prefix: tuple[int, ...] = ()  # with Flag.PREFIX_TOKENS

    @staticmethod
    def from_bytes(data: bytes) -> "Table":
        """Read a whole and consistent table, as the runner's readers make it."""
        reader = _Reader(data)
        magic, version, flags, n_pieces, n_merges, n_added, n_splits, _, bos, eos, unk = reader.header()
        assert magic == MAGIC and version <= 4
        flags = Flag(flags)
        lengths = reader.array("I", n_pieces)
        types = reader.take(n_pieces)
        scores = reader.array(_score_code(flags), n_pieces) if _score_code(flags) else ()
        merges = reader.triples(n_merges)
        added = reader.triples(n_added)
        split_lengths = reader.array("I", n_splits)
        kinds = tuple(map(SplitKind, reader.take(n_splits))) if Flag.SPLIT_KINDS in flags else ()
        form = NormalForm()
        if Flag.NFC in flags:
            form = NormalForm(*map(reader.triples, reader.array("I", 3)))
        replaced = reader.triples(*reader.array("I", 1)) if Flag.REPLACEMENTS in flags else ()
        prefix = reader.array("I", *reader.array("I", 1)) if Flag.PREFIX_TOKENS in flags else ()
        return Table(
            flags=flags,
            pieces=tuple(map(reader.take, lengths)),
            types=types,
            scores=tuple(scores),
            merges=merges,
            added=tuple(AddedToken(id, reader.take(n), AddedFlag(bits)) for id, bits, n in added),
            splits=tuple(reader.take(n).decode() for n in split_lengths),
            bos_id=bos,
            eos_id=eos,
            unk_id=unk,
            split_kinds=kinds,
            normal_form=form,
            replacements=tuple(
                Replacement(bool(late), reader.take(n).decode(), reader.take(m).decode())
                for late, n, m in replaced
            ),
            prefix=tuple(prefix),
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        patterns = [pattern.encode() for pattern in self.splits]
        replaced = [(int(r.late), r.pattern.encode(), r.content.encode()) for r in self.replacements]
        texts = [text for _, pattern, content in replaced for text in (pattern, content)]
        pool = b"".join([*self.pieces, *(token.text for token in self.added), *patterns, *texts])
        header = HEADER.pack(
            MAGIC,
            4 if self.flags & _VERSION_4 else 3 if Flag.NFC in self.flags else 2,
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
        added = ((token.id, int(token.flags), len(token.text)) for token in self.added)
        lengths = ((late, len(pattern), len(content)) for late, pattern, content in replaced)
        return b"".join(
            [
                header,
                _packed("I", map(len, self.pieces)),
                self.types,
                _packed(_score_code(self.flags) or "f", self.scores),
                _packed("I", _flat(self.merges)),
                _packed("I", _flat(added)),
                _packed("I", map(len, patterns)),
                bytes(self.split_kinds),
                self.normal_form.to_bytes() if Flag.NFC in self.flags else b"",
                _packed("I", (len(replaced), *_flat(lengths))) if Flag.REPLACEMENTS in self.flags else b"",
                _packed("I", (len(self.prefix), *self.prefix)) if Flag.PREFIX_TOKENS in self.flags else b"",
                pool,
            ]
        )


def _score_code(flags: Flag) -> str:
    """How scores are stored, as `array` names it; "" where there are none."""
    return "f" if Flag.MERGE_BY_SCORE in flags else "d" if Flag.UNIGRAM in flags else ""


class _Reader:
    """Takes a table's bytes from the front."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def header(self) -> tuple:
        return HEADER.unpack(self.take(HEADER.size))

    def array(self, code: str, count: int) -> array:
        numbers = array(code)
        numbers.frombytes(self.take(count * numbers.itemsize))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers

    def triples(self, count: int) -> _Triples:
        numbers = iter(self.array("I", 3 * count))
        return tuple(zip(numbers, numbers, numbers, strict=True))


def _flat(triples: Iterable[tuple[int, int, int]]) -> Iterator[int]:
    return (number for triple in triples for number in triple)


def _packed(code: str, values) -> bytes:
    numbers = array(code, values)
    assert numbers.itemsize == (8 if code == "d" else 4)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
