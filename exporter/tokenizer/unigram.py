"""The cut of a text into pieces with the highest sum of scores: the definition of `runner/text/unigram.cpp`.

Sources: sentencepiece/src/unigram_model.cc, EncodeOptimized; tokenizers/src/models/unigram/model.rs,
encode_optimized. The former sums float32, and begins to count anew where a sum passes 100,000.
"""

import struct
from itertools import groupby

from exporter.tokenizer.table import Flag, PieceType, Table

_UNKNOWN_PENALTY = 10  # below the lowest score
_LARGEST_FLOAT_SUM = 1e5


class Unigram:
    """Encodes by a table with UNIGRAM. An unknown character lies below the lowest score."""

    def __init__(self, table: Table):
        self._table = table
        self._floats = Flag.MERGE_BY_SCORE in table.flags
        self._ids: dict[bytes, int] = {}
        self._bytes: dict[int, int] = {}
        scores = []
        for id, (piece, type) in enumerate(zip(table.pieces, table.types, strict=True)):
            if type == PieceType.NORMAL:
                self._ids.setdefault(piece, id)
            if type == PieceType.BYTE:
                self._bytes.setdefault(piece[0], id)
                if not self._floats:  # to tokenizers a byte's piece is also its name, which a text may hold
                    self._ids.setdefault(b"<0x%02X>" % piece[0], id)
            if type == PieceType.NORMAL or not self._floats:
                scores.append(table.scores[id])
        self._longest = max(map(len, self._ids), default=0)
        self._unknown_score = self._sum(min(scores), -_UNKNOWN_PENALTY)

    def encode(self, text: str) -> list[int]:
        unknown = self._table.unk_id
        ids: list[int] = []
        for is_unknown, run in groupby(self._best_cut(text), key=lambda found: found[0] == unknown):
            texts = [part for _, part in run]
            if is_unknown:
                texts = [b"".join(texts)] if Flag.FUSE_UNK in self._table.flags else texts
                ids += [id for part in texts for id in self._unknown(part)]
            else:
                ids += [self._ids[part] for part in texts]
        return ids

    def _sum(self, a: float, b: float) -> float:
        return struct.unpack("<f", struct.pack("<f", a + b))[0] if self._floats else a + b

    def _best_cut(self, text: str) -> list[tuple[int, bytes]]:
        """Pieces' ids, or unk_id, and their bytes."""
        data = text.encode()
        best: dict[int, tuple[float, int, int]] = {0: (0.0, 0, -1)}  # by ends: score; the last's start, id
        start = 0
        for size in (len(char.encode()) for char in text):
            till_here = best[start][0]
            if self._floats and abs(till_here) > _LARGEST_FLOAT_SUM:
                for end, (score, *rest) in [item for item in best.items() if item[0] >= start]:
                    best[end] = self._sum(score, -till_here), *rest
                till_here = 0.0
            found = {
                end: self._ids[data[start:end]]
                for end in range(start + 1, min(start + self._longest, len(data)) + 1)
                if data[start:end] in self._ids
            }
            scores = {end: self._table.scores[id] for end, id in found.items()}
            if start + size not in found:
                found[start + size] = self._table.unk_id
                scores[start + size] = self._unknown_score
            for end, id in found.items():
                score = self._sum(till_here, scores[end])
                if end not in best or score > best[end][0]:
                    best[end] = score, start, id
            start += size
        cut, end = [], len(data)
        while end > 0:
            _, start, id = best[end]
            cut.append((id, data[start:end]))
            end = start
        return cut[::-1]

    def _unknown(self, text: bytes) -> list[int]:
        if Flag.BYTE_FALLBACK in self._table.flags and all(byte in self._bytes for byte in text):
            return [self._bytes[byte] for byte in text]
        return [self._table.unk_id]
