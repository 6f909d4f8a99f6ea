"""Unicode's normal form C by a table's data: the definition that `runner/text/normal_form.cpp` follows.

Source: Unicode Standard Annex 15, and the standard's sections 3.11 and 3.12.
"""

from collections.abc import Iterator
from itertools import groupby

from exporter.tokenizer.finder import Marked
from exporter.tokenizer.table import NormalForm

_S, _L, _V, _T = 0xAC00, 0x1100, 0x1161, 0x11A7  # Hangul syllables, and their parts' first numbers
_N_L, _N_V, _N_T = 19, 21, 28


class Composer:
    """Brings texts into normal form C. A character is markup where all that it is made of is."""

    def __init__(self, form: NormalForm):
        self._parts = {code: (first, second) for code, first, second in form.decompositions}
        self._composed = {(first, second): code for first, second, code in form.compositions}
        self._classes = {
            code: number for last, first, number in form.classes for code in range(first, last + 1)
        }

    def __call__(self, marked: Marked) -> Marked:
        """The text in normal form C."""
        apart = [
            (code, markup)
            for char, markup in zip(marked.text, marked.markup, strict=True)
            for code in self._decomposed(ord(char))
        ]
        codes, markup = self._joined(self._ordered(apart))
        return Marked("".join(map(chr, codes)), tuple(markup))

    def _decomposed(self, code: int) -> Iterator[int]:
        if _S <= code < _S + _N_L * _N_V * _N_T:
            index, last = divmod(code - _S, _N_T)
            yield from (_L + index // _N_V, _V + index % _N_V)
            yield from [_T + last] if last else []
        elif code in self._parts:
            first, second = self._parts[code]
            yield from self._decomposed(first)
            yield from [second] if second else []
        else:
            yield code

    def _ordered(self, chars: list[tuple[int, bool]]) -> Iterator[tuple[int, bool]]:
        """Runs of characters that combine, each by its classes."""
        for combining, run in groupby(chars, key=lambda char: char[0] in self._classes):
            chars = list(run)
            yield from sorted(chars, key=lambda char: self._classes[char[0]]) if combining else chars

    def _joined(self, chars: Iterator[tuple[int, bool]]) -> tuple[list[int], list[bool]]:
        """Each character is joined to the last one of class 0 where none between blocks it."""
        codes: list[int] = []
        kinds: list[bool] = []
        starter, before = None, 0  # and the class of the character before
        for code, markup in chars:
            number = self._classes.get(code, 0)
            if starter is not None and (before == 0 or before < number):
                composed = self._pair(codes[starter], code)
                if composed is not None:
                    codes[starter] = composed
                    kinds[starter] = kinds[starter] and markup
                    continue
            if number == 0:
                starter = len(codes)
            before = number
            codes.append(code)
            kinds.append(markup)
        return codes, kinds

    def _pair(self, first: int, second: int) -> int | None:
        if _L <= first < _L + _N_L and _V <= second < _V + _N_V:
            return _S + ((first - _L) * _N_V + second - _V) * _N_T
        syllable = first - _S
        if 0 <= syllable < _N_L * _N_V * _N_T and syllable % _N_T == 0 and _T < second < _T + _N_T:
            return first + second - _T
        return self._composed.get((first, second))
