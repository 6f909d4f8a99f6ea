"""Where added tokens are in a text, as `tokenizers` finds them.

Source: tokenizers 0.23.3, src/tokenizer/added_vocabulary.rs, find_matches.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import regex

from exporter.tokenizer.table import AddedFlag, AddedToken

_SPACES = regex.compile(r"\s*")
_SPACES_AT_END = regex.compile(r"(?<!\s)\s*\Z")
_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")  # \w of Rust's regex


@dataclass(frozen=True)
class Marked:
    """A text of which each character is markup or content: special tokens are markup only."""

    text: str
    markup: tuple[bool, ...]

    def __getitem__(self, part: slice) -> "Marked":
        return Marked(self.text[part], self.markup[part])


@dataclass(frozen=True)
class Found:
    """text[start:stop] is an added token, or text between two (id is None).

    White space that a token takes can hold other tokens, which are found nevertheless unless they
    take white space before them.
    """

    start: int
    stop: int
    id: int | None


class Finder:
    """Finds tokens from left to right, at each position the longest."""

    def __init__(self, tokens: Iterable[AddedToken], special: Iterable[int]):
        self._tokens = {token.text.decode(): token for token in tokens}  # of equal texts the last counts
        self._lengths: dict[str, list[int]] = {}  # of tokens by their first character, longest first
        for first, length in sorted({(text[0], len(text)) for text in self._tokens}, reverse=True):
            self._lengths.setdefault(first, []).append(length)
        self._special = frozenset(special)

    def split(self, marked: Marked) -> Iterator[Found]:
        """Cut a text at its tokens, which take white space around them where they say so."""
        text, done, at = marked.text, 0, 0
        while at < len(text):
            match = self._longest(marked, at)
            if match is None:
                at += 1
                continue
            token, start, stop = match, at, at + len(match.text.decode())
            at = stop  # even where the token does not count, nothing else is found in its text
            if token.id in self._special and not marked.markup[start]:
                continue
            if AddedFlag.SINGLE_WORD in token.flags and _within_word(text, start, stop):
                continue
            if AddedFlag.LSTRIP in token.flags:
                start = max(_SPACES_AT_END.search(text, 0, start).start(), done)
            if AddedFlag.RSTRIP in token.flags:
                stop = _SPACES.match(text, stop).end()
            if start >= stop:  # a token before it took all of it
                continue
            if done < start:
                yield Found(done, start, None)
            yield Found(start, stop, token.id)
            done = stop
        if done < len(text):
            yield Found(done, len(text), None)

    def _longest(self, marked: Marked, at: int) -> AddedToken | None:
        """The longest token here; a special one is wholly markup or wholly content."""
        for length in self._lengths.get(marked.text[at], ()):
            token = self._tokens.get(marked.text[at : at + length])
            if token is None:
                continue
            if token.id not in self._special or len({*marked.markup[at : at + length]}) == 1:
                return token
        return None


def _within_word(text: str, start: int, stop: int) -> bool:
    before, after = text[start - 1 : start], text[stop : stop + 1]
    return any(char and _WORD.match(char) for char in (before, after))
