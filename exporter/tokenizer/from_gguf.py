"""The vocabulary in a GGUF file's metadata, brought into the form of its origin.

`tokenizer.ggml.model` is "gpt2" (byte-level BPE) or "llama" (SentencePiece with scores). A
tokenizer.json or a SentencePiece model is built from it, which the runner's readers and the reference
libraries take. Sources: ggml docs/gguf.md, llama.cpp src/llama-vocab.cpp.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.formats import protobuf_wire as wire
from exporter.tokenizer.table import SPACE_MARK, PieceType

GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class _Pre:
    """What a name in tokenizer.ggml.pre stands for."""

    splits: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False


_DIGITS_THEN_GPT2 = _Pre((r"\p{N}", GPT2_PATTERN))
_LLAMA3 = _Pre((LLAMA3_PATTERN,), ignore_merges=True)
# llama.cpp leaves out Qwen's NFC, with which the model was trained: ids are transformers', as everywhere.
_QWEN2 = _Pre((QWEN2_PATTERN,), nfc=True)
_PRE = {
    "gpt-2": _Pre((GPT2_PATTERN,)),
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}


def huggingface_json(metadata: Mapping) -> str:
    """A tokenizer.json of a "gpt2" vocabulary. Raises ValueError for an unknown `pre`."""
    pre = metadata.get("tokenizer.ggml.pre", "")
    if pre not in _PRE:
        raise ValueError(f"GGUF pre-tokenizer {pre!r} is not supported: only {', '.join(sorted(_PRE))} are")
    known = _PRE[pre]
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in known.splits
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type") or [PieceType.NORMAL] * len(tokens)
    added = [
        {"id": id, "content": token, "special": type == PieceType.CONTROL, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for id, (token, type) in enumerate(zip(tokens, types, strict=True))
        if type in (PieceType.CONTROL, PieceType.USER_DEFINED)
    ]
    model = {
        "type": "BPE",
        "vocab": {token: id for id, token in enumerate(tokens) if types[id] != PieceType.UNUSED},
        "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        "ignore_merges": known.ignore_merges,
    }
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {"type": "NFC"} if known.nfc else None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [*splits, byte_level | {"use_regex": False}],
            },
            "post_processor": None,
            "decoder": byte_level | {"use_regex": True},
            "model": model,
        },
        ensure_ascii=False,
    )


def sentencepiece_model(metadata: Mapping) -> bytes:
    """A serialized SentencePiece ModelProto of a "llama" vocabulary."""
    types = metadata["tokenizer.ggml.token_type"]
    scores = metadata["tokenizer.ggml.scores"]
    tokens = [
        # llama.cpp's converter writes spaces into added tokens, where SentencePiece has marks.
        token.replace(" ", SPACE_MARK) if type == PieceType.USER_DEFINED else token
        for token, type in zip(metadata["tokenizer.ggml.tokens"], types, strict=True)
    ]
    pieces = [
        wire.field(1, token.encode()) + wire.field(2, float(score)) + wire.field(3, int(type))
        for token, score, type in zip(tokens, scores, types, strict=True)
    ]
    unknown = next((t for t, type in zip(tokens, types, strict=False) if type == PieceType.UNKNOWN), "<unk>")
    trainer = [wire.field(3, 2), wire.field(35, 1), wire.field(45, unknown.encode())]
    for number, key in ((46, "bos"), (47, "eos")):
        id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if id is not None:
            trainer.append(wire.field(number, tokens[id].encode()))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    collapse = metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)
    normalizer = [wire.field(1, b"identity"), wire.field(3, int(prefix))]
    normalizer += [wire.field(4, int(collapse)), wire.field(5, 1)]
    return b"".join(
        [wire.field(1, piece) for piece in pieces]
        + [wire.field(2, b"".join(trainer)), wire.field(3, b"".join(normalizer))]
    )


def token_ids(metadata: Mapping) -> tuple[int, int, bool]:
    """(bos_id, eos_id, add_bos); -1 is none. llama.cpp adds bos by default but for "gpt2"."""
    bos_id = metadata.get("tokenizer.ggml.bos_token_id", -1)
    default = metadata["tokenizer.ggml.model"] == "llama" or (
        metadata.get("tokenizer.ggml.pre") in ("llama3", "llama-v3", "llama-bpe")
    )
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", default) and bos_id >= 0
    return bos_id, metadata.get("tokenizer.ggml.eos_token_id", -1), bool(add_bos)
