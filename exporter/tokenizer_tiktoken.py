"""Llama 3's tiktoken `tokenizer.model` to the canonical table.

The file has one line a token, `base64 rank`; ids are ranks. The split pattern and the 256 special
tokens are not in the file but in Meta's code. Source: llama-models, llama3/tokenizer.py.
"""

import base64
import binascii
from dataclasses import dataclass

import tiktoken

from exporter.tokenizer_table import AddedFlag, AddedToken, Flag, PieceType, Table

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_N_SPECIAL = 256
_NAMED = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
LLAMA3_SPECIAL = _NAMED + tuple(
    f"<|reserved_special_token_{i}|>" for i in range(2, 2 + _N_SPECIAL - len(_NAMED))
)


@dataclass(frozen=True)
class TiktokenReference:
    encoding: tiktoken.Encoding

    def encode(self, text: str) -> list[int]:
        return self.encoding.encode(text, allowed_special="all")

    def decode(self, ids: list[int]) -> str:
        special = {self.encoding.encode_single_token(s) for s in self.encoding.special_tokens_set}
        return self.encoding.decode([id for id in ids if id not in special])


def read_tiktoken(data: bytes) -> tuple[Table, TiktokenReference]:
    """Raises ValueError where the lines are not tokens of ranks 0, 1, 2, ..."""
    pieces = parse_ranks(data)
    encoding = tiktoken.Encoding(
        name="llama3",
        pat_str=LLAMA3_PATTERN,
        mergeable_ranks={piece: rank for rank, piece in enumerate(pieces)},
        special_tokens={name: len(pieces) + i for i, name in enumerate(LLAMA3_SPECIAL)},
    )
    return _table(pieces), TiktokenReference(encoding)


def parse_ranks(data: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line:
            continue
        try:
            text, rank = line.split(b" ")
            if int(rank) != len(pieces):
                raise ValueError
            pieces.append(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error):
            raise ValueError(
                f"line {number} is not the tiktoken token of rank {len(pieces)}"
            ) from None
    missing = set(range(256)) - {piece[0] for piece in pieces if len(piece) == 1}
    if missing:
        raise ValueError(f"the tiktoken file lacks {len(missing)} of the 256 single bytes")
    if len(set(pieces)) != len(pieces) or b"" in pieces:
        raise ValueError("the tiktoken file names a token twice or an empty one")
    return pieces


def _table(pieces: list[bytes]) -> Table:
    special = [name.encode() for name in LLAMA3_SPECIAL]
    first = len(pieces)
    return Table(
        flags=Flag.BYTE_UNITS | Flag.MERGE_BY_SCORE | Flag.IGNORE_MERGES | Flag.ADD_BOS,
        pieces=(*pieces, *special),
        types=bytes([PieceType.NORMAL] * first + [PieceType.CONTROL] * len(special)),
        scores=tuple(-float(id) for id in range(first + len(special))),
        added=tuple(
            AddedToken(first + i, name, AddedFlag.IN_TEXT) for i, name in enumerate(special)
        ),
        splits=(LLAMA3_PATTERN,),
        bos_id=first,
        eos_id=first + 1,
    )
