"""The conversations on which a reduced chat template is compared with the template itself.

Their contents are of many kinds, and hold every string that the template itself has, alone, at either
end, between other text, twice and mixed: what a template does with thoughts, calls of tools or markers
in a content it must show on one of them. They all end with a turn of the user.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import nodes

from exporter.chat.format import Messages, conversation
from exporter.chat.kinds import Kinds

_BLANKS = (" \n{}\t ", "{}  ", "\n\n{}", "{}\n", "  {}", "{}", "\u3000{}\u00a0", "\r\n{}\r\n", "\n {} \n")
_ODD_CONTENTS = (
    "", " ", "\n", "\n\n", " \n\t ", "\u3000", "x", "7", "0", "None", "user", "assistant", "system", "tool",
    "UPPER Title lower straße İ ǅ", "one\n\ntwo\n   three\r\nfour\tfive\n", " a  b ",
    "{{ x }} {% y %} {# z #}", "https://example.org/c?d=e#f", "中文。 é e\u0301 🙂\u200d\u2028y",
    "<b class=\"c\">5 < 6 && 7 > 2 &amp; it's</b> \\ \\n \\u0041 %s %(a)d {} {0} $x",
    "- a\n- b\n\n```py\nf(x)\n```", '{"name": "f", "arguments": {"x": [1, null]}}',
    "word " * 700, "y" * 1500, "\n\n" + "word " * 700 + "\n\n",
)  # fmt: skip
_LONG = " \n\n" + "word " * 300 + "y" * 900 + "\n\n "
_THOUGHTS = ("<think>", "</think>")
_THOUGHT = "<think>\na\n</think>\n\nb"
MOST_TURNS = 60
_MOST_ASKED, _MOST_PAIRED, _MIXES_FOR_EACH, _LONGEST_CONTENT = 80, 16, 15, 20_000


@dataclass(frozen=True)
class Constants:
    """What a template's expressions hold: strings that it compares, searches or names; others; numbers."""

    asked: tuple[str, ...]
    written: tuple[str, ...]
    numbers: tuple[int, ...]

    def markers(self) -> list[str]:
        """Those of `asked` that nobody writes by chance."""
        return [text for text in self.asked if len(text) > 2 and not text.replace(" ", "").isalnum()]


def constants_of(tree: nodes.Template) -> Constants:
    """The constants of a parsed template; `asked`, with the marks of thoughts, shorter ones first."""
    kinds = Kinds(tree)
    written = {id(child) for node in tree.find_all((nodes.Output, nodes.Add, nodes.Concat))
               for child in node.iter_child_nodes()}  # fmt: skip
    plain = {id(const) for node in tree.find_all(nodes.Compare) if not kinds.depends(node)
             for const in node.find_all(nodes.Const)}  # fmt: skip
    plain |= {id(node.arg) for node in tree.find_all(nodes.Getitem)}  # names of fields
    asked, others, numbers = set(_THOUGHTS), set(), set()
    for node in tree.find_all(nodes.Const):
        for value in node.value if isinstance(node.value, tuple | list) else (node.value,):
            if isinstance(value, str) and value.strip() and id(node) not in plain:
                (others if id(node) in written else asked).add(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                numbers.add(value)
    asked = sorted(asked, key=lambda text: (len(text), text))[:_MOST_ASKED]
    return Constants(tuple(asked), tuple(sorted(others - set(asked))), tuple(sorted(numbers)))


def check_conversations(constants: Constants, takes_system: bool) -> Iterator[Messages]:
    """The conversations, plain ones first; with system messages where the template takes them."""
    systems = (None, "Qsys0Q") if takes_system else (None,)
    turns = {1, 2, 3, 4, 9, *(n + extra for n in constants.numbers for extra in (1, 2) if 0 < n < MOST_TURNS)}
    for n_turns, system in itertools.product(sorted(turns), systems):
        yield conversation(_plain(2 * n_turns - 1), system)
    for n_turns, system, shift in itertools.product((1, 2, 3, 4), systems, range(len(_BLANKS))):
        blanks = itertools.islice(itertools.cycle(_BLANKS), shift, None)
        contents = [blank.format(text) for blank, text in zip(blanks, _plain(2 * n_turns - 1), strict=False)]
        yield conversation(contents, system and _BLANKS[shift - 1].format(system))
    forms = [form for text in constants.asked for form in _forms(text)]
    for content in (*_ODD_CONTENTS, *forms, *_lengths(constants.numbers)):
        yield from _with_one(content, takes_system)
    for text, system in itertools.product(constants.asked, systems):
        for contents in ([f"a{text}b", "Q"], ["Q", f"a{text}b"]):
            yield conversation((contents * max(turns))[:-1], system)
    for opening, closing in itertools.permutations(constants.asked[:_MOST_PAIRED], 2):
        content = f"{opening}a{closing}"
        for contents in ([content] * 3, ["Q", _THOUGHT, content], ["Q", content, "Q"]):
            yield conversation(contents)
    for text in constants.written:
        yield conversation([text, f"a{text}b", f"{text}b", text, f"a{text}"])
    rng = random.Random(0)
    parts = [*constants.asked, *_THOUGHTS, *_ODD_CONTENTS[:10], "\n", "\n\n", " ", "Q", "text", "two words"]
    for _ in range(_MIXES_FOR_EACH * len(constants.asked)):
        n_turns = rng.randint(1, 6)
        mixed = ["".join(rng.choices(parts, k=rng.randint(0, 5))) for _ in range(2 * n_turns)]
        yield conversation(mixed[1:], rng.choice((None, mixed[0])) if takes_system else None)


def _plain(n: int) -> list[str]:
    return [f"Q{('user', 'answer')[i % 2]}{i}Q" for i in range(n)]


def _forms(text: str) -> Iterator[str]:
    if text.isalnum():
        yield from (text, f"a {text} b", f" {text}\n", text.upper())
        return
    yield from (text, f"{text}b", f"a{text}", f"a{text}b", text + text, f"a{text}b{text}c", text.upper())
    yield from (f"\n{text}\n", f"a\n{text}\n\n b", f" {text} b\n")
    yield from (f"{text}{_LONG}{text}", f"{_LONG}{text}{_LONG}")


def _lengths(numbers: Sequence[int]) -> Iterator[str]:
    for n in numbers:
        if 0 < n < _LONGEST_CONTENT:
            yield from ("z" * (n + extra) for extra in (-1, 0, 1))
            yield from (" ".join("z" * (n + extra)) for extra in (-1, 0, 1))


def _with_one(content: str, takes_system: bool) -> Iterator[Messages]:
    """Conversations with `content` in one place, in all answers, and in all turns of the user."""
    for i in (0, 1, 4):
        contents = _plain(5)
        contents[i] = content
        yield conversation(contents)
    yield conversation([content])
    yield conversation(_plain(9)[:1] + [content, "Q"] * 4)
    yield conversation([content, "Q"] * 4 + [content])
    if takes_system:
        yield conversation(_plain(3), content)
        yield conversation([content] * 3, content)
