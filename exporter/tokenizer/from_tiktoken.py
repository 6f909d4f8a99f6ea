"""Llama 3's tiktoken `tokenizer.model` to the canonical table.

The file has one line a token, `base64 rank`; ids are ranks. The split pattern and the 256 special
tokens are not in the file but in Meta's code. Source: llama-models, llama3/tokenizer.py.
"""

import base64
import binascii
from dataclasses import dataclass, replace

import tiktoken

from exporter.tokenizer.siblings import Added, Siblings, content_of
from exporter.tokenizer.table import AddedFlag, AddedToken, Flag, PieceType, Table

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
    special: frozenset[int]

    def encode(self, text: str) -> list[int]:
        return self.encoding.encode(text, allowed_special="all")

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode([id for id in ids if id not in self.special])


def read_tiktoken(data: bytes, siblings: Siblings) -> tuple[Table, TiktokenReference]:
    """Raises ValueError where the lines are not tokens of ranks 0, 1, 2, ...

    Tokens that the siblings list take the places of Llama 3's special tokens, by their ids.
    """
    pieces = parse_ranks(data)
    tokens = _added(len(pieces), siblings)
    encoding = tiktoken.Encoding(
        name="llama3",
        pat_str=LLAMA3_PATTERN,
        mergeable_ranks={piece: rank for rank, piece in enumerate(pieces)},
        special_tokens={token.content: token.id for token in tokens},
    )
    special = frozenset(token.id for token in tokens if token.special)
    return _table(pieces, tokens, siblings.config), TiktokenReference(encoding, special)


def _added(n_pieces: int, siblings: Siblings) -> list[Added]:
    tokens = {
        n_pieces + i: Added(name, special=True, normalized=False, id=n_pieces + i)
        for i, name in enumerate(LLAMA3_SPECIAL)
    }
    for token in siblings.additions({token.content: token for token in tokens.values()}):
        id = n_pieces + len(tokens) if token.id is None else token.id
        if not n_pieces <= id <= n_pieces + len(tokens):
            raise ValueError(f"added token {token.content!r} has id {id}, which is a token's of the file, "
                             "or leaves a gap: correct the file beside it that lists it")  # fmt: skip
        if token.lstrip or token.rstrip or token.single_word:
            raise ValueError(f"added token {token.content!r}: tiktoken has no lstrip, rstrip, single_word")
        tokens[id] = replace(token, id=id)
    if len({token.content for token in tokens.values()}) != len(tokens):
        raise ValueError("the files beside it give one added token two ids: correct them")
    return [tokens[id] for id in sorted(tokens)]


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


def _table(pieces: list[bytes], tokens: list[Added], config: dict) -> Table:
    names = {token.content: token.id for token in tokens}
    types = [PieceType.CONTROL if token.special else PieceType.USER_DEFINED for token in tokens]
    return Table(
        flags=Flag.BYTE_UNITS | Flag.MERGE_BY_SCORE | Flag.IGNORE_MERGES | Flag.ADD_BOS,
        pieces=(*pieces, *(token.content.encode() for token in tokens)),
        types=bytes([PieceType.NORMAL] * len(pieces) + types),
        scores=tuple(-float(id) for id in range(len(pieces) + len(tokens))),
        added=tuple(
            AddedToken(token.id, token.content.encode(), AddedFlag.IN_TEXT) for token in tokens
        ),
        splits=(LLAMA3_PATTERN,),
        bos_id=names.get(content_of(config.get("bos_token")), len(pieces)),
        eos_id=names.get(content_of(config.get("eos_token")), len(pieces) + 1),
    )
