"""What the files beside a tokenizer say of chats: a template, and names of special tokens.

Added tokens in them are the affair of the runner's readers (runner/text/tokenizer_siblings.h), which refuse
what is no token there. Source: transformers 5.23, tokenization_utils_base.py (_from_pretrained).
"""

import json
import reprlib
from pathlib import Path

_CONFIG = "tokenizer_config.json"


def read_config(path: Path) -> dict:
    """tokenizer_config.json beside the tokenizer file `path`, with what special_tokens_map.json adds."""
    config = _read_object(path.parent / _CONFIG)
    if "added_tokens_decoder" not in config:  # as older releases of transformers wrote a folder
        config |= _read_object(path.parent / "special_tokens_map.json")
    return config


def content_of(value: object) -> str | None:
    """The text of a special token, which files write as a string or as an object."""
    return value.get("content") if isinstance(value, dict) else value


def read_template(path: Path, config: dict) -> str | None:
    """chat_template.jinja, or tokenizer_config.json's template (of several, "default").

    Several are a list of objects, or an object of texts by names. Raises ValueError for what is no text.
    """
    sibling = path.parent / "chat_template.jinja"
    if sibling.exists():
        try:
            return sibling.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{sibling.name} beside it is not UTF-8 ({error}): convert it") from None
    given = template = config.get("chat_template")
    if isinstance(given, list):
        if not all(isinstance(entry, dict) for entry in given):
            raise _wrong_template(given, 'no list of {"name": ..., "template": ...}')
        template = next((e.get("template") for e in reversed(given) if e.get("name") == "default"), None)
    elif isinstance(given, dict):
        template = given.get("default")
    if template is not None and not isinstance(template, str):
        raise _wrong_template(template, "no text")
    return template


def _wrong_template(value: object, what: str) -> ValueError:
    return ValueError(
        f"{_CONFIG} beside it: chat_template {reprlib.repr(value)} is {what}; correct or remove it"
    )


def _read_object(path: Path) -> dict:
    """A JSON object that the runner's reader has read, without what is null; empty where there is none."""
    if not path.exists():
        return {}
    return {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if v is not None}
