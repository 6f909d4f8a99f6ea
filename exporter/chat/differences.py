"""What a reduced chat template gets wrong: contents that a runner has to refuse, or it in words."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import jinja2

from exporter.chat.format import Format, Messages, has_system
from exporter.chat.template import UndefinedName

Render = Callable[[Messages, bool], str]
Feature = tuple[str, str]  # a role, and a text that a content of it holds
_MOST_REFUSED, _TRIED = 4, 30


@dataclass(frozen=True)
class Compared:
    """A conversation, and what the template makes of it: None where it refuses it."""

    messages: Messages
    text: str | None
    met: frozenset[tuple[int, bool]]  # conditions on contents, and their outcomes


def rendered_or_none(render: Render, messages: Messages) -> str | None:
    """Render a conversation, or return None where the template refuses it."""
    try:
        return render(messages, True)
    except UndefinedName:
        raise
    except (jinja2.TemplateError, LookupError, TypeError, ValueError):
        return None


def refused_features(
    wrong: Sequence[Compared], markers: Sequence[str], candidate: Format, render: Render
) -> list[Feature] | None:
    """The fewest features of contents that cause all differences of `candidate`; None where there are none.

    One causes a difference where there is none without it; the first differences are tried. White space
    alone is one, ""; no marker in an answer is: answers are not the user's to choose.
    """
    held = [set(_features(c.messages, markers)) for c in wrong]
    if not all(held):
        return None
    found: list[Feature] = []
    left = list(zip(wrong, held, strict=True))
    while left and len(found) < _MOST_REFUSED:
        causes = Counter(
            feature for c, features in left[:_TRIED] for feature in features
            if _agrees(candidate, render, _without(c.messages, feature))
        )  # fmt: skip
        if not causes:
            return None
        best = max(causes, key=lambda feature: (causes[feature], -len(feature[1]), feature))
        found.append(best)
        left = [(c, features) for c, features in left if best not in features]
    return None if left else found


def _agrees(candidate: Format, render: Render, messages: Messages) -> bool:
    return rendered_or_none(render, messages) == candidate.render(messages)


def _without(messages: Messages, feature: Feature) -> Messages:
    """The conversation with other text in the place of the feature's."""
    role, text = feature

    def replaced(content: str) -> str:
        if text:
            return content.replace(text, "Q")
        return content if content.strip() else "Q"

    return [{**m, "content": replaced(m["content"])} if m["role"] == role else m for m in messages]


def by_role(refused: Sequence[Feature]) -> dict[str, list[str]]:
    return {role: [text for other, text in refused if other == role] for role, _ in refused}


def _features(messages: Messages, markers: Sequence[str]) -> Iterator[Feature]:
    for message in messages:
        role, content = message["role"], message["content"]
        yield from ((role, text) for text in ("", *markers)
                    if _holds(content, text) and (role != "assistant" or not text))  # fmt: skip


def is_refused(messages: Messages, refused: Sequence[Feature]) -> bool:
    return any(m["role"] == role and _holds(m["content"], text) for m in messages for role, text in refused)


def _holds(content: str, text: str) -> bool:
    return text in content if text else not content.strip()


def difference(wrong: Sequence[Compared], nearest: Format) -> str:
    """What the template does on the plainest conversation on which the nearest candidate is wrong."""
    messages, text = wrong[0].messages, wrong[0].text  # plain ones are compared first
    where = f"in a conversation of {len(messages)} message{'s' if len(messages) > 1 else ''}"
    where += " with a system message" if has_system(messages) else ""
    odd = next((m for m in messages if not re.fullmatch(r"Q\w+Q", m["content"])), None)
    if odd is not None:
        where += f", where the {odd['role']} says {odd['content'][:60]!r}"
    if text is None:
        return f"the chat template refuses messages for what they say: {where}"
    got = nearest.render(messages)
    at = len(commonprefix([text, got]))
    start = max(0, at - 12)
    return (
        f"the chat template does not put the same text around every turn: {where}, it writes "
        f"{text[start : at + 24]!r} where that would be {got[start : at + 24]!r}"
    )
