"""A slow and plain engine over the canonical table: the definition the C++ runner follows.

A text is made of spans, each markup (what a chat template writes, a raw prompt) or content (what a
message says). It becomes ids in these steps:

1. Added tokens without NORMALIZED and LATE are found in the text as written, then those with LATE
   in what is left (`finder`). What lies between tokens are segments.
2. Each segment is normalized (replacements and NFC, then PREFIX_SPACE, ESCAPE_SPACES, COLLAPSE_SPACES),
   and the added tokens with NORMALIZED are found in the result; then METASPACE does its part.
3. Each pattern in turn splits the parts so far: its matches and what lies between them, or one of both.
4. A part becomes symbols (bytes or characters); an unknown one becomes bytes, unk_id or nothing.
   The best pair of neighbours is merged (lowest rank or highest score, then leftmost) until no
   pair can be. With UNIGRAM a part is cut into pieces instead (`unigram`).

Special tokens (CONTROL, UNKNOWN) are found in markup only, all others in content too. A match may
lie across spans, unless its token is special.

Sources: tokenizers/src/{tokenizer/added_vocabulary.rs,models/bpe/}, sentencepiece/src/{normalizer,
bpe_model}.cc, tiktoken/src/lib.rs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import regex

from exporter.tokenizer.finder import Finder, Found, Marked
from exporter.tokenizer.normal_form import Composer
from exporter.tokenizer.table import SPACE_MARK, AddedFlag, Flag, PieceType, SplitKind, Table
from exporter.tokenizer.unigram import Unigram

_MARK = SPACE_MARK.encode()
_SPECIAL = (PieceType.CONTROL, PieceType.UNKNOWN)


class Span(NamedTuple):
    """Part of a text that is put together, as a chat template does."""

    text: str
    markup: bool


def normalize(marked: Marked, flags: Flag, first: bool = True) -> Marked:
    """Step 2 for one segment, without NFC and METASPACE. Source: sentencepiece normalizer.cc.

    `first` says that the segment begins the text; else it comes after an added token.
    """
    if Flag.METASPACE in flags:
        return marked
    text, markup = marked.text, list(marked.markup)
    prefix = takes_prefix(text, flags, first)
    if Flag.COLLAPSE_SPACES in flags:
        kept = [i for i, char in enumerate(text) if char != " " or (i and text[i - 1] != " ")]
        text, markup = "".join(text[i] for i in kept), [markup[i] for i in kept]
    if text and prefix:
        text, markup = " " + text, [markup[0], *markup]
    if Flag.ESCAPE_SPACES in flags:
        text = text.replace(" ", SPACE_MARK)
    if Flag.COLLAPSE_SPACES in flags:
        text = text.rstrip(SPACE_MARK if Flag.ESCAPE_SPACES in flags else " ")
    return Marked(text, tuple(markup[: len(text)]))


def takes_prefix(text: str, flags: Flag, first: bool) -> bool:
    """Whether a space is put before a segment, where METASPACE does not decide that."""
    if Flag.PREFIX_SPACE not in flags:
        return False
    if first or not flags & (Flag.PREFIX_FIRST_ONLY | Flag.PREFIX_UNLESS_SPACE):
        return True
    if Flag.COLLAPSE_SPACES in flags:  # which takes the space that is there
        return Flag.PREFIX_UNLESS_SPACE in flags or text.startswith(" ")
    return Flag.PREFIX_UNLESS_SPACE in flags and not text.startswith(" ")


class Engine:
    """Encodes and decodes by a table. `encode` costs O(n^2) a part: for checks, not for use."""

    def __init__(self, table: Table):
        self._table = table
        normal = [i for i, kind in enumerate(table.types) if kind == PieceType.NORMAL]
        self._ids = {table.pieces[i]: i for i in reversed(normal)}
        self._bytes = {
            table.pieces[i]: i for i, kind in enumerate(table.types) if kind == PieceType.BYTE
        }
        self._byte_names = {f"<0x{byte[0]:02X}>": id for byte, id in self._bytes.items()}
        self._ranks = {(a, b): (rank, c) for rank, (a, b, c) in enumerate(table.merges)}
        self._composed = Composer(table.normal_form) if Flag.NFC in table.flags else None
        kinds = table.split_kinds or [SplitKind.ALL] * len(table.splits)
        self._splits = [(regex.compile(p), kind) for p, kind in zip(table.splits, kinds, strict=True)]
        self._replaced = [(r.late, regex.compile(r.pattern), r.content) for r in table.replacements]
        self._unigram = Unigram(table) if Flag.UNIGRAM in table.flags else None
        special = [id for id, kind in enumerate(table.types) if kind in _SPECIAL]
        late = AddedFlag.NORMALIZED | AddedFlag.LATE
        self._written, self._late, self._normalized = (
            Finder((token for token in table.added if token.flags & late == stage), special)
            for stage in (AddedFlag(0), AddedFlag.LATE, AddedFlag.NORMALIZED)
        )
        self._decoded = {
            token.id: token.text
            for token in table.added
            if AddedFlag.NORMALIZED in token.flags
            and table.flags & (Flag.ESCAPE_SPACES | Flag.NFC | Flag.REPLACEMENTS)
            and Flag.BYTE_UNITS not in table.flags  # whose pieces are bytes, and made so at export
        }

    def encode(self, text: str, markup: bool = True) -> list[int]:
        """Token ids without bos of a text that is all markup, or all content."""
        return self.encode_spans([Span(text, markup)])

    def encode_spans(self, spans: Sequence[Span]) -> list[int]:
        """Token ids without bos of the spans, joined."""
        marked = Marked(
            "".join(span.text for span in spans),
            tuple(span.markup for span in spans for _ in span.text),
        )
        ids: list[int] = []
        for written in self._written.split(marked):
            for late in _within(self._late, marked, written):
                if late.id is not None:
                    ids.append(late.id)
                    continue
                part = marked[late.start : late.stop]
                part = self._replace(part, late=False)
                if self._composed:
                    part = self._composed(part)
                part = self._replace(part, late=True)
                part = normalize(part, self._table.flags, late.start == 0)
                for piece in self._normalized.split(part):
                    if piece.id is not None:
                        ids.append(piece.id)
                        continue
                    text = part.text[piece.start : piece.stop]
                    ids.extend(self._encode_plain(self._metaspace(text, late.start + piece.start == 0)))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text without special tokens; bytes that are not UTF-8 become U+FFFD.

        The space that encoding put before the text is dropped from the first piece that has one;
        with COLLAPSE_SPACES from every piece before the first text. Source:
        sentencepiece_processor.cc.
        """
        flags = self._table.flags
        out = bytearray()
        strip, by_rank = Flag.STRIP_DECODED_SPACE in flags, Flag.MERGE_BY_SCORE not in flags
        for id in ids:
            piece, kind = self._decoded.get(id, self._table.pieces[id]), self._table.types[id]
            if kind == PieceType.CONTROL:
                continue
            marked = piece.startswith(_MARK)
            if flags & (Flag.ESCAPE_SPACES | Flag.METASPACE) and kind != PieceType.BYTE:
                piece = piece.replace(_MARK, b" ")
            # SentencePiece takes a mark away, tokenizers any space.
            if strip and kind != PieceType.UNKNOWN and piece.startswith(b" ") and (marked or by_rank):
                piece = piece[1:]
                strip = Flag.COLLAPSE_SPACES in flags
            strip = strip and not piece
            out += piece
        return out.decode("utf-8", errors="replace")

    def _replace(self, marked: Marked, late: bool) -> Marked:
        """Each match of a pattern becomes its content, which is markup where all of the match was."""
        for is_late, pattern, content in self._replaced:
            text, markup, done = "", [], 0
            for start, stop in (match.span() for match in pattern.finditer(marked.text)):
                if is_late == late and start < stop:
                    text += marked.text[done:start] + content
                    markup += marked.markup[done:start] + (all(marked.markup[start:stop]),) * len(content)
                    done = stop
            marked = Marked(text + marked.text[done:], (*markup, *marked.markup[done:]))
        return marked

    def _metaspace(self, text: str, first: bool) -> str:
        flags = self._table.flags
        if Flag.METASPACE not in flags:
            return text
        text = text.replace(" ", SPACE_MARK)
        prefix = Flag.PREFIX_SPACE in flags and (first or Flag.PREFIX_FIRST_ONLY not in flags)
        return SPACE_MARK + text if prefix and not text.startswith(SPACE_MARK) else text

    def _encode_plain(self, text: str) -> Iterator[int]:
        parts = [text]
        for pattern, kind in self._splits:
            parts = [piece for part in parts for piece in _split(pattern, kind, part)]
        for part in parts:
            yield from self._encode_part(part)

    def _encode_part(self, part: str) -> list[int]:
        flags = self._table.flags
        if self._unigram:
            return self._unigram.encode(part)
        if Flag.IGNORE_MERGES in flags:
            whole = self._ids.get(part.encode(), self._byte_names.get(part))
            if whole is not None:
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


def _within(finder: Finder, marked: Marked, found: Found) -> Iterator[Found]:
    """Cut text between tokens further; a token stays what it is."""
    if found.id is not None:
        yield found
        return
    for inner in finder.split(marked[found.start : found.stop]):
        yield Found(found.start + inner.start, found.start + inner.stop, inner.id)


def _split(pattern: regex.Pattern, kind: SplitKind, text: str) -> Iterator[str]:
    done = 0
    for match in pattern.finditer(text):
        start, stop = match.span()
        if start == stop:
            continue
        if done < start and kind != SplitKind.MATCHES:
            yield text[done:start]
        if kind != SplitKind.BETWEEN:
            yield text[start:stop]
        done = stop
    if done < len(text) and kind != SplitKind.MATCHES:
        yield text[done:]
