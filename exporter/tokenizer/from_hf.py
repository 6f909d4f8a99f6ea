"""Hugging Face `tokenizer.json` files (BPE) to the canonical table.

Two shapes are known: byte-level BPE (GPT-2, Llama 3, SmolLM2, Qwen) and SentencePiece-style BPE (Llama 2,
Mistral, Gemma: a Prepend and Replace normalizer or a Metaspace pre-tokenizer), both with or without
the normalizer NFC. Any component outside of them is a ValueError that names it.
`runner/text/tokenizer_raw_json.cpp` does the same, but for NFC, whose data only the exporter has.
Source: tokenizers/src/{normalizers,pre_tokenizers,processors,decoders}/.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import tokenizers

from exporter.tokenizer.engine import normalize
from exporter.tokenizer.finder import Marked
from exporter.tokenizer.library import from_library, library_encode, library_normal_form, to_library
from exporter.tokenizer.normal_form import Composer
from exporter.tokenizer.siblings import Added, Siblings, check_ids, content_of
from exporter.tokenizer.table import SPACE_MARK, AddedFlag, AddedToken, Flag, NormalForm, PieceType, Table

GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Those classes of transformers that let tokenizer_config.json's add_bos_token decide.
_LLAMA_CLASSES = re.compile(r"(Code)?LlamaTokenizer(Fast)?")
# The pattern whose matches are parts, and what lies between them, where "{}" is the pattern to split at.
# \G: a part begins where the last one ended, so that a text without a match is looked through once.
_SPLIT_FORMS = {"Isolated": "{}", "MergedWithPrevious": r"\G(?s:.*?)(?:{})"}
_ADDED_FIELDS = ("id", "content", "special", "normalized", "lstrip", "rstrip", "single_word")


@dataclass(frozen=True)
class HuggingFaceReference:
    tokenizer: tokenizers.Tokenizer

    def encode(self, text: str) -> list[int]:
        return library_encode(self.tokenizer, text).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def read_huggingface(text: str, siblings: Siblings) -> tuple[Table, HuggingFaceReference]:
    """`siblings` is what lies beside the tokenizer.json. Raises ValueError as said above."""
    try:
        root = json.loads(text)
        pipeline = _pipeline(root)
        listed = [_added(entry) for entry in root.get("added_tokens") or []]
    except (
        LookupError, TypeError, AttributeError, StopIteration, json.JSONDecodeError, RecursionError
    ) as error:  # fmt: skip
        raise ValueError(f"not a tokenizer.json, or a damaged one: {error!r}") from None
    tokenizer = _library_tokenizer(text)  # which refuses a model that is none
    additions = siblings.additions({token.content: token for token in listed})
    tokenizer.add_tokens([to_library(token) for token in additions])
    added = {id: from_library(id, token) for id, token in tokenizer.get_added_tokens_decoder().items()}
    check_ids([*listed, *additions], {token.content: id for id, token in added.items()})
    in_order = [added[id] for id in sorted(added)]
    table = _table(root["model"], pipeline, siblings.config, in_order)
    return table, HuggingFaceReference(tokenizer)


def _library_tokenizer(text: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"tokenizers refuses the tokenizer.json: {error}") from None
    if not isinstance(tokenizer.model, tokenizers.models.BPE):
        kind = type(tokenizer.model).__name__
        raise ValueError(f"tokenizers takes the tokenizer.json's model for {kind}: only BPE is supported")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _added(entry: dict) -> Added:
    return Added(**{name: entry[name] for name in _ADDED_FIELDS})


@dataclass(frozen=True)
class _Pipeline:
    """What the components around the model say."""

    flags: Flag
    splits: tuple[str, ...]
    bos: str | None  # the special token that is put before a text


def _pipeline(root: dict) -> _Pipeline:
    model = root["model"]
    _check_model(model)
    flags = _normalizer(root.get("normalizer"))
    pre_flags, splits = _pre_tokenizer(root.get("pre_tokenizer"), Flag.ESCAPE_SPACES in flags)
    flags |= pre_flags | _decoder(root.get("decoder"))
    for name, flag in (
        ("fuse_unk", Flag.FUSE_UNK),
        ("byte_fallback", Flag.BYTE_FALLBACK),
        ("ignore_merges", Flag.IGNORE_MERGES),
    ):
        if model.get(name):
            flags |= flag
    _check_flags(flags)
    return _Pipeline(flags, tuple(splits), _post_processor(root.get("post_processor")))


def _table(model: dict, pipeline: _Pipeline, config: dict, added: list[Added]) -> Table:
    """`added` are all added tokens in the order of their ids."""
    vocab, flags = model["vocab"], pipeline.flags
    form = library_normal_form() if Flag.NFC in flags else NormalForm()
    texts = _looked_for(added, form)
    pieces, types = _pieces(vocab, added, texts, flags)
    unk = model.get("unk_token")
    unk_id = vocab[unk] if unk is not None else -1
    if unk_id >= 0 and types[unk_id] == PieceType.NORMAL:
        types[unk_id] = PieceType.UNKNOWN
    ids = vocab | {token.content: token.id for token in added}
    bos_id = ids.get(pipeline.bos or content_of(config.get("bos_token")), -1)
    add_bos = pipeline.bos is not None
    wanted = config.get("add_bos_token")
    if isinstance(wanted, bool) and _LLAMA_CLASSES.fullmatch(config.get("tokenizer_class") or ""):
        add_bos = wanted
    return Table(
        flags=flags | (Flag.ADD_BOS if add_bos and bos_id >= 0 else Flag(0)),
        pieces=tuple(pieces),
        types=bytes(types),
        merges=tuple(_merges(model["merges"], vocab, types)),
        added=tuple(_added_token(token, texts[token.id], flags) for token in added),
        splits=pipeline.splits,
        bos_id=bos_id,
        eos_id=ids.get(content_of(config.get("eos_token")), -1),
        unk_id=unk_id,
        normal_form=form,
    )


def _check_model(model: dict) -> None:
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"tokenizer model {model['type']!r} is not supported: only BPE is")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"BPE option {name} = {model[name]!r} is not supported")
    unk = model.get("unk_token")
    if unk is not None and unk not in model["vocab"]:
        raise ValueError(f"BPE option unk_token = {unk!r} is none of the vocabulary's tokens")


def _members(component: dict | None, key: str) -> Iterator[dict]:
    """The components of a possibly nested Sequence, in order."""
    if component is None:
        return
    if component["type"] == "Sequence":
        for member in component[key]:
            yield from _members(member, key)
    else:
        yield component


def _unsupported(role: str, component: dict) -> ValueError:
    options = {k: v for k, v in component.items() if k != "type"}
    return ValueError(f"{role} {component['type']} with {json.dumps(options)} is not supported")


def _normalizer(component: dict | None) -> Flag:
    flags = Flag(0)
    for member in _members(component, "normalizers"):
        prepends = member["type"] == "Prepend" and member["prepend"] == SPACE_MARK
        escapes = (
            member["type"] == "Replace"
            and member["pattern"] == {"String": " "}
            and member["content"] == SPACE_MARK
        )
        if member["type"] == "NFC":  # anywhere: no mark combines with a space or a space mark
            flags |= Flag.NFC
        elif prepends and not flags & ~Flag.NFC:
            flags |= Flag.PREFIX_SPACE
        elif escapes and Flag.ESCAPE_SPACES not in flags:
            flags |= Flag.ESCAPE_SPACES
        else:
            raise _unsupported("normalizer", member)
    return flags


def _pre_tokenizer(component: dict | None, no_spaces: bool) -> tuple[Flag, list[str]]:
    """Flags and split patterns; `no_spaces` says that the normalizer leaves none."""
    flags, splits = Flag(0), []
    for member in _members(component, "pretokenizers"):
        kind = member["type"]
        if flags:
            raise _unsupported("a pre-tokenizer after ByteLevel or Metaspace:", member)
        if kind == "ByteLevel" and not member["add_prefix_space"]:
            flags |= Flag.BYTE_UNITS
            splits += [GPT2_PATTERN] if member.get("use_regex", True) else []
        elif kind == "Digits":
            splits.append(r"\p{N}" if member["individual_digits"] else r"\p{N}+")
        elif kind == "Split" and member["behavior"] in _SPLIT_FORMS and not member["invert"]:
            pattern = member["pattern"]
            text = pattern["Regex"] if "Regex" in pattern else _quoted(pattern["String"])
            if not (no_spaces and pattern == {"String": " "}):  # as Gemma's, which never matches
                splits.append(_SPLIT_FORMS[member["behavior"]].format(text))
        elif kind == "Metaspace" and member["replacement"] == SPACE_MARK and not splits:
            flags |= Flag.METASPACE | _metaspace_prefix(member)
            splits += [f"{SPACE_MARK}[^{SPACE_MARK}]*"] if member.get("split", True) else []
        else:
            raise _unsupported("pre-tokenizer", member)
    return flags, splits


def _metaspace_prefix(member: dict) -> Flag:
    scheme = member.get("prepend_scheme")
    if scheme is None:
        scheme = "always" if member.get("add_prefix_space", True) else "never"
    schemes = {
        "always": Flag.PREFIX_SPACE,
        "first": Flag.PREFIX_SPACE | Flag.PREFIX_FIRST_ONLY,
        "never": Flag(0),
    }
    if scheme not in schemes:
        raise _unsupported("pre-tokenizer", member)
    return schemes[scheme]


def _quoted(text: str) -> str:
    """A pattern that matches `text` in both regular expression libraries."""
    return "".join(c if c.isalnum() or not c.isascii() else f"\\x{ord(c):02x}" for c in text)


def _decoder(component: dict | None) -> Flag:
    flags = Flag(0)
    for member in _members(component, "decoders"):
        kind = member["type"]
        if kind == "Metaspace":
            flags |= Flag.STRIP_DECODED_SPACE if _metaspace_prefix(member) else Flag(0)
        elif kind == "Strip" and (member["content"], member["stop"]) == (" ", 0):
            flags |= Flag.STRIP_DECODED_SPACE if member["start"] else Flag(0)
        elif kind == "Replace":
            if (member["pattern"], member["content"]) != ({"String": SPACE_MARK}, " "):
                raise _unsupported("decoder", member)
        elif kind not in ("ByteLevel", "ByteFallback", "Fuse"):
            raise _unsupported("decoder", member)
    return flags


def _check_flags(flags: Flag) -> None:
    spaces = flags & (Flag.PREFIX_SPACE | Flag.ESCAPE_SPACES | Flag.METASPACE)
    if Flag.BYTE_UNITS in flags and spaces:
        raise ValueError("a ByteLevel pre-tokenizer after a Prepend or Replace normalizer"
                         " is not supported")
    if Flag.METASPACE in flags and Flag.ESCAPE_SPACES in flags:
        raise ValueError("a Metaspace pre-tokenizer after a Replace normalizer is not supported")
    if spaces == Flag.PREFIX_SPACE:
        raise ValueError("a Prepend normalizer without Replace is not supported")


def _post_processor(component: dict | None) -> str | None:
    """The special token that is put before a text, if one is."""
    bos = None
    for member in _members(component, "processors"):
        if member["type"] == "ByteLevel":
            continue
        if member["type"] != "TemplateProcessing":
            raise _unsupported("post-processor", member)
        single = [next(iter(item.items())) for item in member["single"]]
        kinds = [kind for kind, _ in single]
        if kinds == ["SpecialToken", "Sequence"]:
            bos = single[0][1]["id"]
        elif kinds != ["Sequence"]:
            names = [value["id"] for _, value in single]
            raise ValueError(f"post-processor TemplateProcessing {names} is not supported: only"
                             " one token before the text is")
    return bos


def _looked_for(added: list[Added], form: NormalForm) -> dict[int, str]:
    """The added tokens' texts by their ids, those of normalized tokens in normal form."""
    composer = Composer(form) if form.classes else None
    return {
        token.id: composer(Marked(token.content, (True,) * len(token.content))).text
        if composer and token.normalized else token.content
        for token in added
    }  # fmt: skip


def _pieces(
    vocab: dict, added: list[Added], texts: dict[int, str], flags: Flag
) -> tuple[list[bytes], list[int]]:
    n_pieces = 1 + max([*vocab.values(), *(token.id for token in added)])
    if n_pieces > 4 * (len(vocab) + len(added)):
        raise ValueError(f"token id {n_pieces - 1} is too large for {len(vocab)} tokens")
    pieces, types = [b""] * n_pieces, [int(PieceType.UNUSED)] * n_pieces
    alphabet = byte_alphabet()
    # A token that is no piece is decoded as what is looked for.
    unknown = ((texts[token.id], token.id) for token in added if token.content not in vocab)
    for text, id in [*vocab.items(), *unknown]:
        pieces[id], types[id] = text.encode(), PieceType.NORMAL
        if Flag.BYTE_UNITS in flags:
            if all(char in alphabet for char in text):
                pieces[id] = bytes(alphabet[char] for char in text)
            else:
                types[id] = PieceType.UNUSED
        elif Flag.BYTE_FALLBACK in flags and re.fullmatch("<0x[0-9A-F]{2}>", text):
            pieces[id], types[id] = bytes([int(text[3:5], 16)]), PieceType.BYTE
    for token in added:
        if token.special:
            pieces[token.id], types[token.id] = token.content.encode(), PieceType.CONTROL
        elif token.content not in vocab or types[token.id] == PieceType.UNUSED:
            types[token.id] = PieceType.USER_DEFINED
    return pieces, types


def _merges(merges: list, vocab: dict, types: list[int]) -> Iterator[tuple[int, int, int]]:
    """Merges in order of rank. One that would make a special token out of text is left out."""
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        result = vocab[left + right]
        if types[result] != PieceType.CONTROL:
            yield vocab[left], vocab[right], result


def _added_token(token: Added, text: str, flags: Flag) -> AddedToken:
    found = AddedFlag.IN_TEXT
    for name, flag in (
        ("lstrip", AddedFlag.LSTRIP),
        ("rstrip", AddedFlag.RSTRIP),
        ("single_word", AddedFlag.SINGLE_WORD),
        ("normalized", AddedFlag.NORMALIZED),
    ):
        found |= flag if getattr(token, name) else AddedFlag(0)
    if token.normalized:
        text = normalize(Marked(text, (True,) * len(text)), flags).text
    return AddedToken(token.id, text.encode(), found)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte. Source: openai/gpt-2 encoder.py."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
