"""Added tokens and names of special tokens in the files beside a tokenizer file.

tokenizer_config.json, special_tokens_map.json and added_tokens.json are read as transformers reads
them. Source: transformers 5.23, tokenization_utils_base.py (_from_pretrained) and
tokenization_utils_tokenizers.py (TokenizersBackend.__init__).
"""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")  # the first that is not empty
_NO_TOKEN = 'neither a string nor an object whose "content" is one'


@dataclass(frozen=True)
class Added:
    """An added token as files describe it; `id` is what they say, None where they do not."""

    content: str
    special: bool
    normalized: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    id: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Siblings:
    """`config` is tokenizer_config.json with what special_tokens_map.json adds to it."""

    config: dict = field(default_factory=dict)
    listed: tuple[Added, ...] = ()  # of added_tokens_decoder, or else of added_tokens.json

    def additions(self, present: Mapping[str, Added]) -> list[Added]:
        """What transformers adds to the tokens that a tokenizer file itself adds, in its order."""
        same = set(present.values())
        found = [token for token in self.listed if token not in same]
        known = {*present, *(token.content for token in found)}
        named, extra = _special(self.config)
        names = {content_of(value) for value in named}
        for value in [*named, *extra]:
            if content_of(value) and content_of(value) not in known:
                found.append(_named(value))
                known.add(content_of(value))
        return [replace(token, special=token.special or token.content in names) for token in found]


def read_siblings(path: Path) -> Siblings:
    """Read what lies beside the tokenizer file `path`.

    Raises ValueError for damaged files, naming the file and the key that no tokenizer can have so.
    """
    config = _read_config(path, "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"]
        try:
            listed = [_entry(entry, int(id)) for id, entry in entries.items()]
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise ValueError(
                f"added_tokens_decoder in tokenizer_config.json beside it is damaged: {error!r}; "
                "correct or remove it"
            ) from None
    else:  # as older releases of transformers wrote a folder
        config |= _read_config(path, "special_tokens_map.json")
        special = {content_of(value) for values in _special(config) for value in values}
        listed = [
            Added(text, text in special, text not in special, id=id)
            for text, id in _read_object(path, "added_tokens.json").items()
        ]
        if not all(type(token.id) is int for token in listed):
            raise ValueError("added_tokens.json beside it is damaged: an id is no number")
    return Siblings(config, tuple(sorted(listed, key=lambda token: token.id)))


def content_of(value: object) -> str | None:
    """The text of a special token, which files write as a string or as an object."""
    return value.get("content") if isinstance(value, dict) else value


def check_ids(tokens: list[Added], ids: Mapping[str, int]) -> None:
    """Refuse tokens that would get other ids than the files say. Raises ValueError."""
    for token in tokens:
        if token.content and token.id is not None and token.id != ids[token.content]:
            raise ValueError(
                f"added token {token.content!r} has id {token.id} in the files, but transformers "
                f"gives it {ids[token.content]}: correct the file that lists it"
            )


def _read_object(path: Path, name: str) -> dict:
    sibling = path.parent / name
    if not sibling.exists():
        return {}
    try:
        content = json.loads(sibling.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} beside it is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} beside it is not a JSON object")
    return {key: value for key, value in content.items() if value is not None}


def _read_config(path: Path, name: str) -> dict:
    """A file's object, of which `_special` and the formats' readers take values of the right types only."""
    config = _read_object(path, name)
    if not isinstance(config.get("tokenizer_class", ""), str):
        raise wrong_value(name, "tokenizer_class", config["tokenizer_class"], "no string")
    for key in _NAMED:
        if key in config and not _is_token(config[key]):
            raise wrong_value(name, key, config[key], _NO_TOKEN)
    for key in _EXTRA:
        extra = config.get(key, [])
        if not isinstance(extra, (list, dict)):
            raise wrong_value(name, key, extra, "neither a list nor an object of tokens")
        for token in extra.values() if isinstance(extra, dict) else extra:
            if not _is_token(token):
                raise wrong_value(name, f"in {key},", token, _NO_TOKEN)
    return config


def wrong_value(file: str, key: str, value: object, what: str) -> ValueError:
    """An error for the value of `key` in `file`, which is `what`."""
    return ValueError(f"{file} beside it: {key} {reprlib.repr(value)} is {what}; correct or remove it")


def _is_token(value: object) -> bool:
    return isinstance(content_of(value), str)


def _special(config: dict) -> tuple[list, list]:
    """Special tokens with a name of their own, such as eos_token or image_token, and further ones."""
    named = [config.get(key) for key in _NAMED]
    named += [v for k, v in config.items() if k.endswith("_token") and k not in _NAMED and isinstance(v, str)]
    extra = next((config[key] for key in _EXTRA if config.get(key)), [])
    if isinstance(extra, dict):
        named, extra = [*named, *extra.values()], []
    return [value for value in named if value], list(extra)


def _named(value: str | dict) -> Added:
    """A special token that is only named: as AddedToken(text, special=True) of `tokenizers`."""
    if isinstance(value, str):
        return Added(value, special=True, normalized=False)
    return _entry({"normalized": False} | value | {"special": True}, None)


def _entry(entry: dict, id: int | None) -> Added:
    if not isinstance(entry["content"], str):
        raise TypeError(f"content {entry['content']!r} is no string")
    special = bool(entry.get("special", False))
    flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return Added(entry["content"], special, bool(entry.get("normalized", not special)), **flags, id=id)
