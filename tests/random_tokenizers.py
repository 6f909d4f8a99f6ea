"""Random small tokenizers with odd added tokens, and texts that are full of these."""

import base64
import io
import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_ALPHABET = (
    "a", "b", "c", "A", "1", "2", "é", "ö", "ß", "中", "文", "😀", "_", "<", "|", ">", "'", "\u0301",
    # What normal form C joins, orders, replaces or lets be.
    "e", "\u0323", "\u0308", "\u1ea1", "\u212b", "\u0344", "\u1112", "\u1161", "\ud558", "\u11ab", "\u09fe",
)  # fmt: skip
_BLANKS = (" ", " ", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u3000", "\r\n", "\u200b", "▁", "▁▁")
_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
_PATTERNS = (r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+", " ", r"[ab]", r"(?=\p{N})\S|é")
_BYTE_PATTERNS = (*_PATTERNS, r"\s?\w+|\s+")  # \w has U+200D and ½ in some libraries
_BEHAVIORS = ("isolated", "isolated", "merged_with_previous", "merged_with_next", "contiguous", "removed")
# What they make begins with a letter that no text has, so that no two texts become one, and no token is found
# in a part of it.
_REPLACEMENTS = (("文", "x中"), (Regex(r"b(?=1)"), "xy"), (Regex(r"\u3000"), "z "), (Regex("[éö]+'"), "zx"))


def random_text(rng: random.Random, tokens: list[str], length: int) -> str:
    """A text of added tokens, parts of such, white space and characters of one to four bytes."""
    out = []
    for _ in range(rng.randint(0, length)):
        kind = rng.random()
        if kind < 0.35 and tokens:
            token = rng.choice(tokens)
            cut = rng.randrange(len(token)) if rng.random() < 0.15 else 0
            out.append(token[cut:] if rng.random() < 0.5 else token[: len(token) - cut])
        elif kind < 0.6:
            out.append(rng.choice(_BLANKS))
        else:
            out.append("".join(rng.choices(_ALPHABET, k=rng.randint(1, 4))))
    return "".join(out)


def _corpus(rng: random.Random) -> list[str]:
    words = ["".join(rng.choices(_ALPHABET, k=rng.randint(1, 5))) for _ in range(30)]
    return [" ".join(rng.choices(words, k=rng.randint(1, 8))) + rng.choice(_BLANKS) for _ in range(60)]


def _contents(rng: random.Random, n: int) -> list[str]:
    """Texts of added tokens: overlapping, one inside another, with white space anywhere."""
    found: list[str] = []
    while len(found) < n:
        kind = rng.random()
        if kind < 0.25 and found:
            text = rng.choice(found) + rng.choice(_ALPHABET + _BLANKS)
        elif kind < 0.35 and found:
            text = rng.choice(found)[1:]
        elif kind < 0.5:
            text = rng.choice(_BLANKS)
        else:
            text = "".join(rng.choices(_ALPHABET, k=rng.randint(1, 3)))
            text = rng.choice(("", "", " ", "\n")) + text + rng.choice(("", "", " ", "\t"))
        # Of two tokens that normalization makes equal the library finds now one, now the other.
        if text and _escaped(text) not in map(_escaped, found):
            found.append(text)
    return found


def _escaped(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace(" ", "▁")


def _flags(rng: random.Random, content: str) -> dict[str, bool]:
    flags = {name: rng.random() < 0.35 for name in _FLAGS}
    # A token of white space that takes more of it makes the library panic beside others that do.
    flags["lstrip"] &= not content.isspace() or rng.random() < 0.02
    return flags


def write_huggingface(rng: random.Random, folder: Path) -> list[str]:
    """Write a folder with a tokenizer.json; some of its tokens are only in the files beside it.

    Returns the added tokens' texts.
    """
    kind = rng.choice(("bytes", "bytes", "metaspace", "prepend", "replace"))
    if kind != "bytes" and rng.random() < 0.5:
        return _write_unigram(rng, kind, folder)
    unknown = None if kind == "bytes" or rng.random() < 0.2 else "<unk>"
    model = models.BPE(
        unk_token=unknown, fuse_unk=rng.random() < 0.5, byte_fallback=kind != "bytes" and rng.random() < 0.6
    )
    tokenizer = Tokenizer(model)
    _PIPELINES[kind](rng, tokenizer)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else list(_ALPHABET[::2])
    special = ["<unk>"] if unknown else []
    if model.byte_fallback:
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(special) + rng.randint(5, 60),
        special_tokens=special,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet) + 4,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(rng), trainer)
    root = json.loads(tokenizer.to_str())
    root["model"]["ignore_merges"] = rng.random() < 0.3
    return _add_tokens(rng, root, root["model"]["vocab"], unknown, folder)


def _write_unigram(rng: random.Random, kind: str, folder: Path) -> list[str]:
    """Pieces are parts of the corpus; many have the same score, so that cuts of one sum are met."""
    corpus = " ".join(_corpus(rng)).replace(" ", "▁")
    starts = [rng.randrange(len(corpus)) for _ in range(rng.randint(20, 120))]
    parts = [corpus[at : at + rng.choice((1, 1, 2, 2, 3, 4, 6))] for at in starts]
    byte_fallback = rng.random() < 0.6
    parts += [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    digits = rng.choice((0, 0, 1, 7))
    pieces = [("<unk>", 0.0)] + [(part, round(rng.uniform(-9, -1), digits)) for part in dict.fromkeys(parts)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    _PIPELINES[kind](rng, tokenizer)
    root = json.loads(tokenizer.to_str())
    unknown = {"id": 0, "content": "<unk>"} | dict.fromkeys(_FLAGS, False) | {"special": True}
    root["added_tokens"].append(unknown)
    return _add_tokens(rng, root, {text: id for id, (text, _) in enumerate(pieces)}, "<unk>", folder)


def _add_tokens(
    rng: random.Random, root: dict, vocab: dict[str, int], unknown: str | None, folder: Path
) -> list[str]:
    """Write the folder of a tokenizer.json with random added tokens, in it and beside it."""
    root["added_tokens"] = [t for t in root["added_tokens"] if not t["content"].startswith("<0x")]
    contents = _contents(rng, rng.randint(1, 12))
    if "Strip" in str(root["normalizer"]):  # which makes tokens equal, or empty
        contents = [content for content in contents if content == content.strip()]
    entries = []
    for content in contents:
        flags = _flags(rng, content)
        # A special token that BPE could make of text is left out of the merges, unlike there.
        flags["special"] &= content not in vocab
        # Decoding there leaves out a token that normalization makes equal to a special one.
        flags["special"] &= all("▁" + _escaped(other) != content for other in contents)
        id = vocab.get(content, len(vocab) + sum(entry["content"] not in vocab for entry in entries))
        entries.append({"id": id, "content": content} | flags)
    inside = rng.choice((len(entries), len(entries), rng.randint(0, len(entries))))
    root["added_tokens"] += entries[:inside]
    (folder / "tokenizer.json").write_text(json.dumps(root))
    _write_siblings(rng, folder, root["added_tokens"], entries[inside:])
    return contents + (["<unk>"] if unknown else [])


def _write_siblings(rng: random.Random, folder: Path, inside: list[dict], beside: list[dict]) -> None:
    config: dict = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if beside and rng.random() < 0.6:
        listed = sorted([*inside, *beside], key=lambda entry: entry["id"])
        config["added_tokens_decoder"] = {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in listed
        }
        specials = [entry["content"] for entry in listed if entry["special"]]
        config |= {"eos_token": specials[0]} if specials else {}
    elif beside:
        names = {entry["content"]: entry["id"] for entry in beside}
        (folder / "added_tokens.json").write_text(json.dumps(names))
        special = [entry["content"] for entry in beside if entry["special"]]
        config |= {rng.choice(("additional_special_tokens", "extra_special_tokens")): special}
        if special:
            (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": special[-1]}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _bytes(rng: random.Random, tokenizer: Tokenizer) -> None:
    parts = []
    if rng.random() < 0.4:
        parts.append(pre_tokenizers.Digits(individual_digits=rng.random() < 0.5))
    if rng.random() < 0.5:
        parts.append(_split(rng, _BYTE_PATTERNS))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rng.random() < 0.5)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level])
    tokenizer.normalizer = _normalizer(rng, [])
    tokenizer.decoder = decoders.ByteLevel()


def _split(rng: random.Random, patterns: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    if rng.random() < 0.1:
        return pre_tokenizers.Punctuation(rng.choice(_BEHAVIORS))
    behavior = rng.choice(_BEHAVIORS)
    pattern = rng.choice(_PATTERNS if behavior == "removed" else patterns)
    return pre_tokenizers.Split(Regex(pattern), behavior, rng.random() < 0.3)


def _normalizer(rng: random.Random, steps: list[normalizers.Normalizer]) -> normalizers.Normalizer | None:
    """The steps, at times with normal form C at either end, and with replacements before them."""
    replaced = [normalizers.Replace(*pair) for pair in rng.sample(_REPLACEMENTS, rng.choice((0, 0, 1, 2)))]
    strip = [normalizers.Strip(rng.random() < 0.5, rng.random() < 0.5)] if rng.random() < 0.1 else []
    steps = [*replaced, *strip, *steps]
    kind = rng.random()
    if kind < 0.3:
        steps = [normalizers.NFC(), *steps] if kind < 0.2 else [*steps, normalizers.NFC()]
    return normalizers.Sequence(steps) if steps else None


def _decoder(strip: int) -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", strip, 0)])


def _changes_texts(normalizer: normalizers.Normalizer | None) -> bool:
    return any(name in str(normalizer) for name in ("Replace", "Strip"))


def _metaspace(rng: random.Random, tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = _normalizer(rng, [])
    replaces = _changes_texts(tokenizer.normalizer)
    scheme = rng.choice(("always", "never") if replaces else ("always", "first", "never"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=rng.random() < 0.5)
    tokenizer.decoder = _decoder(int(scheme != "never"))


def _prepend(rng: random.Random, tokenizer: Tokenizer) -> None:
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = _normalizer(rng, steps)
    tokenizer.decoder = _decoder(1)


def _replace(rng: random.Random, tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = _normalizer(rng, [normalizers.Replace(" ", "▁")])
    if rng.random() < 0.5:  # as Gemma's
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif rng.random() < 0.5:
        tokenizer.pre_tokenizer = _split(rng, _PATTERNS)
    tokenizer.decoder = _decoder(0)


_PIPELINES = {"bytes": _bytes, "metaspace": _metaspace, "prepend": _prepend, "replace": _replace}


def write_sentencepiece(rng: random.Random, folder: Path) -> list[str]:
    """Write a folder with a tokenizer.model; returns its symbols' and added tokens' texts."""
    symbols = [text for text in _contents(rng, rng.randint(0, 6)) if _is_symbol(text)]
    out = io.BytesIO()
    options = {
        "byte_fallback": rng.random() < 0.6,
        "add_dummy_prefix": rng.random() < 0.7,
        "remove_extra_whitespaces": rng.random() < 0.3,
        "split_digits": rng.random() < 0.5,
        "allow_whitespace_only_pieces": rng.random() < 0.7,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus(rng)), model_writer=out, model_type=rng.choice(("bpe", "unigram")),
        vocab_size=3 + 256 * options["byte_fallback"] + len(symbols) + rng.randint(25, 60),
        normalization_rule_name="identity", user_defined_symbols=symbols, hard_vocab_limit=False,
        control_symbols=["[ctl]", "<a>"], minloglevel=9, **options,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    known = {processor.id_to_piece(id) for id in range(len(processor))}
    added = [text for text in _contents(rng, rng.randint(0, 6)) if text not in known]
    entries = [
        {"content": text, "id": len(processor) + i} | _flags(rng, text) for i, text in enumerate(added)
    ]
    _write_siblings(rng, folder, [], entries)
    if rng.random() < 0.3:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"legacy": True}))
    return [*symbols, *added, "<s>", "</s>", "[ctl]", "<a>", "<unk>"]


def _is_symbol(text: str) -> bool:
    """Whether the trainer takes the text as a user-defined symbol."""
    return not any(c in text for c in "\n\r\t ") and text.strip() == text


def write_tekken(rng: random.Random, folder: Path) -> list[str]:
    """Write a folder with a tekken.json, whose pattern may leave out much; returns its special tokens."""
    corpus = " ".join(_corpus(rng)).encode()
    pieces = [bytes([byte]) for byte in range(256)]
    for _ in range(rng.randint(20, 200)):
        at = rng.randrange(len(corpus))
        pieces.append(corpus[at : at + rng.randint(2, 5)])
    pieces = [piece for piece in dict.fromkeys(pieces) if piece]
    n_special, n_unused = rng.randint(3, 9), rng.randint(0, 5)
    names = [f"[{text}{i}]" for i, text in enumerate(_contents(rng, n_special - 3))]
    names = ["<unk>", "<s>", "</s>", *names]
    listed = names[: rng.randint(3, n_special)]
    root = {
        "config": {
            "pattern": rng.choice(_PATTERNS), "num_vocab_tokens": len(pieces), "version": "v11",
            "default_vocab_size": n_special + len(pieces) - n_unused, "default_num_special_tokens": n_special,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(listed)
        ],
    }  # fmt: skip
    (folder / "tekken.json").write_text(json.dumps(root))
    return [*listed, *(f"<SPECIAL_{id}>" for id in range(len(listed), n_special))]
