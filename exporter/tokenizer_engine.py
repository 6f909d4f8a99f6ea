"""A slow and plain engine over the canonical table: the definition the C++ runner follows.

A text becomes ids in these steps:

1. Added tokens with IN_TEXT and without NORMALIZED are found in the text as written, at each
   position the longest. What lies between them are segments.
2. Each segment is normalized (PREFIX_SPACE, ESCAPE_SPACES, COLLAPSE_SPACES), and the added tokens
   with NORMALIZED are found in the result; then METASPACE does its part.
3. Each pattern in turn splits the parts so far: its matches and what lies between them.
4. A part becomes symbols (bytes or characters); an unknown one becomes bytes, unk_id or nothing.
   The best pair of neighbours is merged (lowest rank or highest score, then leftmost) until no
   pair can be.

Sources: tokenizers/src/{tokenizer/added_vocabulary.rs,models/bpe/}, sentencepiece/src/{normalizer,
bpe_model}.cc, tiktoken/src/lib.rs.
"""

from collections.abc import Iterable, Iterator

import regex

from exporter.tokenizer_table import SPACE_MARK, AddedFlag, AddedToken, Flag, PieceType, Table

_MARK = SPACE_MARK.encode()
_LEADING_SPACE = regex.compile(r"\s*")
_TRAILING_SPACE = regex.compile(r"(?<!\s)\s*\Z")


def normalize(text: str, flags: Flag) -> str:
    """Step 2 for one segment, without METASPACE. Source: sentencepiece normalizer.cc."""
    if Flag.METASPACE in flags:
        return text
    mark = SPACE_MARK if Flag.ESCAPE_SPACES in flags else " "
    if Flag.COLLAPSE_SPACES in flags:
        text = regex.sub(" +", " ", text.lstrip(" "))
    if text and Flag.PREFIX_SPACE in flags:
        text = " " + text
    text = text.replace(" ", mark)
    if Flag.COLLAPSE_SPACES in flags:
        text = text.rstrip(mark)
    return text


class Engine:
    """Encodes and decodes by a table. `encode` costs O(n^2) a part: for checks, not for use."""

    def __init__(self, table: Table):
        self._table = table
        normal = [i for i, kind in enumerate(table.types) if kind == PieceType.NORMAL]
        self._ids = {table.pieces[i]: i for i in reversed(normal)}
        self._bytes = {
            table.pieces[i]: i for i, kind in enumerate(table.types) if kind == PieceType.BYTE
        }
        self._ranks = {(a, b): (rank, c) for rank, (a, b, c) in enumerate(table.merges)}
        self._splits = [regex.compile(pattern) for pattern in table.splits]
        in_text = [token for token in table.added if AddedFlag.IN_TEXT in token.flags]
        self._written = _Finder(t for t in in_text if AddedFlag.NORMALIZED not in t.flags)
        self._normalized = _Finder(t for t in in_text if AddedFlag.NORMALIZED in t.flags)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids without bos. With `special` false no added token is recognised."""
        ids: list[int] = []
        for start, part in self._written.split(text) if special else [(0, text)]:
            if isinstance(part, int):
                ids.append(part)
                continue
            part = normalize(part, self._table.flags)
            pieces = self._normalized.split(part) if special else [(0, part)]
            for offset, piece in pieces:
                if isinstance(piece, int):
                    ids.append(piece)
                elif piece:
                    ids.extend(self._encode_plain(self._metaspace(piece, start + offset == 0)))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text without special tokens; bytes that are not UTF-8 become U+FFFD.

        The space that encoding put before the text is dropped from the first piece that has one;
        with COLLAPSE_SPACES from every piece before the first text. Source:
        sentencepiece_processor.cc.
        """
        flags = self._table.flags
        out = bytearray()
        strip = Flag.STRIP_DECODED_SPACE in flags
        for id in ids:
            piece, kind = self._table.pieces[id], self._table.types[id]
            if kind == PieceType.CONTROL:
                continue
            if flags & (Flag.ESCAPE_SPACES | Flag.METASPACE) and kind != PieceType.BYTE:
                piece = piece.replace(_MARK, b" ")
            if strip and kind != PieceType.UNKNOWN and piece.startswith(b" "):
                piece = piece[1:]
                strip = Flag.COLLAPSE_SPACES in flags
            strip = strip and not piece
            out += piece
        return out.decode("utf-8", errors="replace")

    def _metaspace(self, text: str, first: bool) -> str:
        flags = self._table.flags
        if Flag.METASPACE not in flags:
            return text
        text = text.replace(" ", SPACE_MARK)
        prefix = Flag.PREFIX_SPACE in flags and (first or Flag.PREFIX_FIRST_ONLY not in flags)
        return SPACE_MARK + text if prefix and not text.startswith(SPACE_MARK) else text

    def _encode_plain(self, text: str) -> Iterator[int]:
        parts = [text]
        for pattern in self._splits:
            parts = [piece for part in parts for piece in _isolate(pattern, part)]
        for part in parts:
            yield from self._encode_part(part)

    def _encode_part(self, part: str) -> list[int]:
        flags = self._table.flags
        whole = self._ids.get(part.encode())
        if whole is not None and Flag.IGNORE_MERGES in flags:
            return [whole]
        if Flag.BYTE_UNITS in flags:
            units = [bytes([byte]) for byte in part.encode()]
        else:
            units = [char.encode() for char in part]
        if Flag.MERGE_BY_SCORE in flags:
            return self._merge_by_score(units)
        return self._merge_by_rank(units)

    def _merge_by_rank(self, units: list[bytes]) -> list[int]:
        symbols: list[int] = []
        unknown = False
        for unit in units:
            ids = self._unit_ids(unit)
            fused = unknown and Flag.FUSE_UNK in self._table.flags
            unknown = ids == [self._table.unk_id]
            if not (unknown and fused):
                symbols.extend(ids)
        while True:
            best = min(
                (
                    (*self._ranks[pair], i)
                    for i, pair in enumerate(zip(symbols, symbols[1:], strict=False))
                    if pair in self._ranks
                ),
                key=lambda found: (found[0], found[2]),
                default=None,
            )
            if best is None:
                return symbols
            _, result, i = best
            symbols[i : i + 2] = [result]

    def _merge_by_score(self, symbols: list[bytes]) -> list[int]:
        scores = self._table.scores
        while True:
            best = None
            for i, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False)):
                id = self._ids.get(a + b)
                if id is not None and (best is None or scores[id] > best[0]):
                    best = scores[id], i
            if best is None:
                break
            i = best[1]
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        out: list[int] = []
        unknown = False
        for symbol in symbols:
            ids = self._unit_ids(symbol)
            fused = unknown and Flag.FUSE_UNK in self._table.flags
            unknown = ids == [self._table.unk_id]
            if not (unknown and fused):
                out.extend(ids)
        return out

    def _unit_ids(self, unit: bytes) -> list[int]:
        """The ids of one symbol before merging: its own, its bytes', unk_id or none."""
        id = self._ids.get(unit)
        if id is not None:
            return [id]
        if Flag.BYTE_FALLBACK in self._table.flags:
            fallback = [self._bytes.get(bytes([byte])) for byte in unit]
            if None not in fallback:
                return fallback
        return [self._table.unk_id] if self._table.unk_id >= 0 else []


class _Finder:
    """Finds added tokens: leftmost, then longest. Source: tokenizers added_vocabulary.rs."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self._tokens = {token.text.decode(): token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = regex.compile("|".join(map(regex.escape, longest_first)))

    def split(self, text: str) -> Iterator[tuple[int, str | int]]:
        """(start, part): an id for an added token, else the non-empty text between two."""
        done = 0
        for match in self._pattern.finditer(text) if self._tokens else ():
            token = self._tokens[match.group()]
            start, stop = match.span()
            if AddedFlag.LSTRIP in token.flags:
                start = max(done, _TRAILING_SPACE.search(text, 0, start).start())
            if AddedFlag.RSTRIP in token.flags:
                stop = _LEADING_SPACE.match(text, stop).end()
            if done < start:
                yield done, text[done:start]
            yield start, token.id
            done = stop
        if done < len(text):
            yield done, text[done:]


def _isolate(pattern: regex.Pattern, text: str) -> Iterator[str]:
    done = 0
    for match in pattern.finditer(text):
        start, stop = match.span()
        if start == stop:
            continue
        if done < start:
            yield text[done:start]
        yield text[start:stop]
        done = stop
    if done < len(text):
        yield text[done:]
