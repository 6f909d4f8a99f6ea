"""The `tokenizers` library: its added tokens, and its panics as ValueErrors."""

import tokenizers

from exporter.tokenizer.siblings import Added

_FIELDS = ("content", "special", "normalized", "lstrip", "rstrip", "single_word")


def to_library(token: Added) -> tokenizers.AddedToken:
    """The library's form of an added token, which has no id."""
    return tokenizers.AddedToken(**{name: getattr(token, name) for name in _FIELDS})


def from_library(id: int, token: tokenizers.AddedToken) -> Added:
    """The other way round."""
    return Added(id=id, **{name: getattr(token, name) for name in _FIELDS})


def library_encode(tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    """The library's encoding, without a bos. Raises ValueError where the library panics."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except BaseException as error:  # a panic's class cannot be imported
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"tokenizers cannot encode {text!r}: {error}") from None
