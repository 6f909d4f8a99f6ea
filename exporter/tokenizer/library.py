"""The `tokenizers` library: its added tokens, its panics as ValueErrors, and the Unicode that it knows."""

import unicodedata
from collections.abc import Iterator
from functools import cache

import tokenizers
from tokenizers import normalizers

from exporter.tokenizer.siblings import Added
from exporter.tokenizer.table import NormalForm

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


@cache
def library_normal_form() -> NormalForm:
    """What the library's NFC knows: Python's Unicode data, less what came after the library's Unicode 9.

    An assigned character's decomposition and class never change, but the library lets later characters be.
    """
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    decompositions = [(code, *pair) for code, pair in _decompositions() if nfd(chr(code)) != chr(code)]
    compositions = sorted(
        (first, second, code) for code, first, second in decompositions
        if second and nfc(chr(first) + chr(second)) == chr(code)
    )  # fmt: skip
    classes: list[tuple[int, int, int]] = []
    for code in filter(_is_character, range(0x110000)):
        of_code = unicodedata.combining(chr(code))
        lower, higher = "\u0334", "\u0345"  # of classes 1 and 240
        unsorted = "x" + (chr(code) + lower if of_code > 1 else higher + chr(code))
        if not of_code or nfd(unsorted) == unsorted:
            continue
        if classes and (classes[-1][0], classes[-1][2]) == (code - 1, of_code):
            classes[-1] = (code, *classes[-1][1:])
        else:
            classes.append((code, code, of_code))
    return NormalForm(tuple(decompositions), tuple(compositions), tuple(classes))


def _decompositions() -> Iterator[tuple[int, tuple[int, int]]]:
    """Canonical ones, one step: a character becomes one (the second is 0) or two."""
    for code in filter(_is_character, range(0x110000)):
        parts = unicodedata.decomposition(chr(code)).split()
        if parts and not parts[0].startswith("<"):
            first, second = (int(part, 16) for part in (*parts, "0")[:2])
            yield code, (first, second)


def _is_character(code: int) -> bool:
    return not 0xD800 <= code < 0xE000  # what a str holds beside these cannot be given to the library
