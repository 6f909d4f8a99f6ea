"""Which tokens begin a text and end a generation, and which file said so.

Ids come from generation_config.json or else config.json, as transformers takes them, from the tokenizer's
own eos, from a GGUF's eos, eot and eom, and from names that a family's chat template ends a turn with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from exporter.tokenizer.table import PieceType
from exporter.tokenizer.tokenizer import Tokenizer

# Control tokens that end a turn or a text wherever they are. Sources: the generation_config.json or chat
# template of the families named.
_END_NAMES = (
    "</s>",  # Llama 2, Mistral
    "<|endoftext|>",  # GPT-2, SmolLM2, Qwen
    "<|im_end|>",  # ChatML
    "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>",  # Llama 3
    "<|eot|>", "<|eom|>",  # Llama 4
    "<|end|>",  # Phi 3
    "<|return|>", "<|call|>",  # gpt-oss
    "<eos>", "<end_of_turn>",  # Gemma
    "<｜end▁of▁sentence｜>", "<|EOT|>",  # DeepSeek
    "<|end_of_turn|>",  # OpenChat
    "<|END_OF_TURN_TOKEN|>",  # Command R
    "[|endofturn|]",  # EXAONE
    "<end_of_utterance>",  # SmolVLM
)  # fmt: skip
# Names that end less than a turn beside another: gpt-oss ends each message of a turn with <|end|>.
_ENDS_LESS_BESIDE = {"<|end|>": "<|return|>"}
_GENERATION, _CONFIG = "generation_config.json", "config.json"
_TEXT = (PieceType.NORMAL, PieceType.BYTE)


@dataclass(frozen=True)
class TokenSources:
    """The ids, and what said each: "generation_config.json: eos_token_id", ... in order of reading."""

    bos_id: int | None
    bos: tuple[str, ...]
    stops: Mapping[int, tuple[str, ...]]  # ascending
    warnings: tuple[str, ...] = ()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a generation, ascending."""
        return tuple(self.stops)

    def to_dict(self, tokenizer: Tokenizer) -> dict:
        """As JSON has it: `{"bos": ENTRY | null, "stops": [ENTRY]}`, an entry `{"id", "text", "from"}`."""
        bos = None if self.bos_id is None else _entry(self.bos_id, self.bos, tokenizer)
        return {"bos": bos, "stops": [_entry(id, said, tokenizer) for id, said in self.stops.items()]}


def token_sources(
    tokenizer: Tokenizer, generation: Mapping, config: Mapping, vocab_size: int
) -> TokenSources:
    """What begins and ends texts, by `generation_config.json`, `config.json` and the tokenizer.

    `generation` and `config` are the files' contents as far as they have `bos_token_id` and `eos_token_id`.
    Raises ValueError naming a value that is no id at all.
    """
    warnings: list[str] = []
    found: dict[int, list[str]] = {}
    for source, ids in (
        _configured("eos_token_id", tokenizer, generation, config, vocab_size, warnings),
        *_own_ends(tokenizer, vocab_size, warnings),
    ):
        for id in ids:  # a token beyond the table is never written
            if id < vocab_size and source not in found.setdefault(id, []):
                found[id].append(source)
    if not found:
        warnings.append(
            "no token ends a generation: generation_config.json, config.json and the tokenizer name none, so "
            'that only --steps or a full context does; add "eos_token_id" to generation_config.json'
        )
    stops = {id: tuple(found[id]) for id in sorted(found)}
    if tokenizer.bos_id is not None and tokenizer.bos_id < vocab_size:
        return TokenSources(tokenizer.bos_id, ("tokenizer: bos_token",), stops, tuple(warnings))
    source, ids = _configured("bos_token_id", tokenizer, generation, config, vocab_size, warnings)
    known = [id for id in ids if id < tokenizer.n_pieces]
    return TokenSources(*((known[0], (source,)) if known else (None, ())), stops, tuple(warnings))


def completed(tokenizer: Tokenizer, sources: TokenSources) -> Tokenizer:
    """`tokenizer` with a bos and an eos from elsewhere where it has none; it adds bos no more than before."""
    bos_id, eos_id = tokenizer.source.bos_id, tokenizer.source.eos_id
    if bos_id < 0 and sources.bos_id is not None:
        bos_id = sources.bos_id
    if eos_id < 0:
        eos_id = next((id for id in sources.stops if id < tokenizer.n_pieces), -1)
    return replace(tokenizer, source=replace(tokenizer.source, bos_id=bos_id, eos_id=eos_id))


def _own_ends(
    tokenizer: Tokenizer, vocab_size: int, warnings: list[str]
) -> Iterator[tuple[str, list[int]]]:
    """What the tokenizer's files name, and names that need no file."""
    for key, value in tokenizer.declared_ends.items():
        source = f"GGUF: {key}"
        yield source, _checked([value], source, vocab_size, warnings)
    name = tokenizer.named_tokens.get("eos_token")
    if name is not None and name.encode() in tokenizer.source.pieces:
        yield "tokenizer: eos_token", [tokenizer.source.pieces.index(name.encode())]
    elif tokenizer.eos_id is not None:
        yield "tokenizer: eos_token", [tokenizer.eos_id]
    special = tokenizer.special_tokens
    for name in _END_NAMES:
        if name in special and _ENDS_LESS_BESIDE.get(name) not in special:
            yield f"name: {name}", [special[name]]


def _entry(id: int, sources: tuple[str, ...], tokenizer: Tokenizer) -> dict:
    text = tokenizer.token_name(id) if id < tokenizer.n_pieces else None
    return {"id": id, "text": text, "from": list(sources)}


def _configured(
    key: str, tokenizer: Tokenizer, generation: Mapping, config: Mapping, vocab_size: int, warnings: list[str]
) -> tuple[str, list[int]]:
    """The ids of `key` in the first file that has it, and where that is; `warnings` gets what is odd."""
    file = next((name for name, fields in ((_GENERATION, generation), (_CONFIG, config))
                 if fields.get(key) is not None), None)  # fmt: skip
    if file is None:
        return "", []
    source, value = f"{file}: {key}", (generation if file == _GENERATION else config)[key]
    kept, added = [], {token.id for token in tokenizer.source.added}
    for id in _checked(value if isinstance(value, list) else [value], source, vocab_size, warnings):
        if id >= tokenizer.n_pieces:
            warnings.append(
                f"{source} {id} is none of the tokenizer's {tokenizer.n_pieces} tokens but one of the rows "
                f"that pad the model's table to {vocab_size}: it has no text, and ends a generation"
            )
        elif tokenizer.source.types[id] in _TEXT and id not in added:
            # Model classes have default ids, which are written whatever the tokenizer is.
            if key == "bos_token_id":
                continue
            said = f"{source} {id} is {tokenizer.token_name(id)!r}, a piece of text"
            if file == _CONFIG:
                warnings.append(f"{said}, and is not taken; if it is meant, say so in {_GENERATION}")
                continue
            warnings.append(f"{said}: a generation ends there; remove it if that is not meant")
        kept.append(id)
    return source, kept


def _checked(ids: list, source: str, vocab_size: int, warnings: list[str]) -> list[int]:
    """The ids of the vocabulary; what lies outside of it cannot be written, and is only warned of."""
    wrong = next((id for id in ids if type(id) is not int), None)
    if wrong is not None:
        raise ValueError(f"{source} {wrong!r} is no token's id; correct or remove it")
    warnings += [f"{source} {id} is outside the model's vocabulary of {vocab_size}, and is left out"
                 for id in ids if not 0 <= id < vocab_size]  # fmt: skip
    return [id for id in ids if 0 <= id < vocab_size]
