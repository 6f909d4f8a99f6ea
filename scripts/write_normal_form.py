#!/usr/bin/env python3
"""Write what Unicode's normal form C needs to know of characters, for the runner's readers of raw tokenizers.

    .venv/bin/python scripts/write_normal_form.py [--check]

The file is runner/text/normal_form_data.inc. With --check it is only compared: exits 1 where it differs.
What is known is what `tokenizers` knows: Python's Unicode data, less what came after that library's
Unicode 9. An assigned character's decomposition and class never change, but the library lets later ones be.
"""

import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tokenizers import normalizers

FILE = Path(__file__).resolve().parent.parent / "runner" / "text" / "normal_form_data.inc"
_HEAD = """\
// Written by scripts/write_normal_form.py. Numbers of 7 bits a byte, the lowest first, the top bit set where
// more follow; a sign is the lowest bit. Each decomposition in the order of its characters: how far the
// character is from the one before, its first part from the first part before (signed), and twice its second
// part (0: none), one more where both parts are composed again. After a 0, ranges of characters that combine:
// how far the first is from the last of the range before, the last from the first, and their class.
"""
_PER_LINE = 28


def decompositions() -> list[tuple[int, int, int, bool]]:
    """(character, first, second or 0, whether the parts are composed again), ascending; one step each."""
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    found = []
    for code in filter(_is_character, range(0x110000)):
        parts = unicodedata.decomposition(chr(code)).split()
        if parts and not parts[0].startswith("<") and nfd(chr(code)) != chr(code):
            first, second = (int(part, 16) for part in (*parts, "0")[:2])
            found.append((code, first, second, second != 0 and nfc(chr(first) + chr(second)) == chr(code)))
    return found


def classes() -> list[tuple[int, int, int]]:
    """(first of a range, its last, their combining class), ascending; other characters have class 0."""
    nfd, found = normalizers.NFD().normalize_str, []
    for code in filter(_is_character, range(0x110000)):
        of_code = unicodedata.combining(chr(code))
        lower, higher = "\u0334", "\u0345"  # of classes 1 and 240
        unsorted = "x" + (chr(code) + lower if of_code > 1 else higher + chr(code))
        if not of_code or nfd(unsorted) == unsorted:
            continue
        if found and found[-1][1:] == (code - 1, of_code):
            found[-1] = (found[-1][0], code, of_code)
        else:
            found.append((code, code, of_code))
    return found


def _is_character(code: int) -> bool:
    return not 0xD800 <= code < 0xE000  # what a str holds beside these cannot be given to the library


def encoded() -> bytes:
    """What the file holds."""
    out = bytearray()
    last = last_part = 0
    for code, first, second, composed in decompositions():
        signed = first - last_part
        out += _number(code - last) + _number(abs(signed) * 2 + (signed < 0)) + _number(second * 2 + composed)
        last, last_part = code, first
    out += _number(0)
    last = 0
    for first, end, combining_class in classes():
        out += _number(first - last) + _number(end - first) + _number(combining_class)
        last = end
    return bytes(out)


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _lines(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), _PER_LINE):
        yield ",".join(map(str, data[at : at + _PER_LINE])) + ",\n"


def main() -> int:
    text = _HEAD + "".join(_lines(encoded()))
    if sys.argv[1:] == ["--check"]:
        return int(FILE.read_text() != text)
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
