"""Chat templates reduced to a few strings, so that a runner needs no Jinja.

`reduce_template` renders a template with sentinel messages, reads off what it puts around them, and
then checks the result against Jinja itself (`check`): on some thousands of conversations, which must
have made every choice that depends on what messages say (`chat_branches`). The result is a JSON object:

    reducible         true, or false with only "reason" beside it
    begin             text before everything
    system            placement: "turn" (a turn of its own), "first_user" or "last_user" (put before
                      the content of that user turn) or "none" (refused or dropped);
                      prefix, suffix, strip, cut; default: the text where none is given, or null;
                      blank: "kept", or "none": text of white space alone counts as no system message
    user, assistant   prefix, suffix; cut: null, or {"after", "strip"}: of a content that holds the text
                      `after` only what follows its last occurrence stays, stripped; strip: then what is
                      dropped at the ends, {"left", "right"}, each "none", "newlines" or "white_space"
    strip_folded      user.strip acts on system text and content together
    generation_prompt text that makes the model answer
    refused           where there are any: from roles to texts which the template takes for more than text
                      ("": white space alone); a runner refuses contents that hold one
    date              only if the template asks for today's date: the day of the export, which the
                      strings above now hold

A conversation is an optional system message, then user and assistant in turn; the user has the last
word, and the generation prompt follows. A tokenizer reads the strings above as markup, in which
special tokens are recognised, and contents as plain text.
"""

import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os.path import commonprefix

import jinja2
from jinja2 import nodes

from exporter.chat.branches import Branches
from exporter.chat.check import Constants, check_conversations, constants_of
from exporter.chat.counts import Counts
from exporter.chat.differences import (
    Compared,
    Feature,
    Render,
    by_role,
    difference,
    is_refused,
    refused_features,
    rendered_or_none,
)
from exporter.chat.format import Cut, Format, Messages, Role, Strip, conversation
from exporter.chat.forms import NotFollowed, check_forms
from exporter.chat.kinds import Kinds
from exporter.chat.template import Template, UndefinedName

_SYSTEM = "Qsys0Q"
_TURNS = ("Quser0Q", "Qanswer0Q", "Quser1Q")
_STRIPS = tuple(Strip(*ends) for ends in itertools.product(("none", "newlines", "white_space"), repeat=2))
_PADDED = "\n\n \u3000\n {} \n\u00a0 \n\n"


class _NotReducible(Exception):
    """The template has a shape that a Format does not have."""


def reduce_template(template: str | None, tokenizer) -> dict:
    """The JSON object described above. `tokenizer` has the named tokens (exporter.tokenizer.tokenizer)."""
    if template is None:
        return {"reducible": False, "reason": "the checkpoint has no chat template"}
    today = datetime.date.today()
    asked_for_date: list[str] = []

    def strftime_now(format: str) -> str:
        asked_for_date.append(format)
        return today.strftime(format)

    branches = Branches()
    constants: list[Constants] = []

    def instrument(tree: nodes.Template) -> nodes.Template:
        check_forms(tree, Kinds(tree), Counts(tree))
        constants.append(constants_of(tree))
        return branches.instrument(tree)

    try:
        parsed = Template(
            template, tokenizer.named_tokens, strftime_now, instrument, branches.globals
        )
        found = _reduce(parsed.render, tokenizer, constants[0], branches)
    except (_NotReducible, NotFollowed, UndefinedName) as error:
        return {"reducible": False, "reason": str(error)}
    except Exception as error:  # a template can fail in any way, as any program can
        return {"reducible": False, "reason": f"the chat template fails: {_one_line(error)}"}
    return found | ({"date": today.isoformat()} if asked_for_date else {})


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _reduce(render: Render, tokenizer, constants: Constants, branches: Branches) -> dict:
    """The first candidate that agrees with `render` on the check, but for contents that are refused."""
    shapes = list(_shapes(render, tokenizer))
    if not shapes:
        raise _NotReducible("the chat template puts system text where no known template does")
    conversations = check_conversations(constants, shapes[0].placement != "none")
    branches.take()
    compared = [Compared(c, rendered_or_none(render, c), branches.take()) for c in conversations]
    wrong, nearest, found = None, None, None
    for candidate in _candidates(shapes, render, constants.asked):
        differing = [c for c in compared if c.text != candidate.render(c.messages)]
        refused = refused_features(differing, constants.markers(), candidate, render)
        if refused is not None and (found is None or len(refused) < len(found[1])):
            found = candidate, refused
        if wrong is None or len(differing) < len(wrong):
            wrong, nearest = differing, candidate
        if not differing:
            break
    if found is None:
        raise _NotReducible(difference(wrong, nearest))
    candidate, refused = found
    _check_branches(compared, refused, branches)
    return candidate.to_dict() | ({"refused": by_role(refused)} if refused else {})


def _check_branches(
    compared: Sequence[Compared], refused: Sequence[Feature], branches: Branches
) -> None:
    """Raise _NotReducible naming a condition or operation of which only one side was compared.

    One that only refused contents reach need not be; and of a condition they may be the other side.
    """
    every = {met for c in compared for met in c.met}
    taken = {met for c in compared if not is_refused(c.messages, refused) for met in c.met}
    for number, outcome in sorted(taken):
        words = branches.only(number, outcome)
        if words and (number, not outcome) not in (taken if branches.changes(number) else every):
            raise _NotReducible(
                f"the chat template {words}: what it does otherwise is not known to be text around turns"
            )


# -- reading off ---------------------------------------------------------------------------------


def _shapes(render: Render, tokenizer) -> Iterator[Format]:
    """Texts around the messages, read off from sentinels; some of them may not hold."""
    plain = _without_system(render, tuple(tokenizer.special_tokens))
    try:
        with_system = render(conversation(_TURNS, _SYSTEM), True)
    except UndefinedName:
        raise
    except jinja2.TemplateError:
        yield plain
        return
    if _SYSTEM not in with_system:
        yield plain
        return
    bos = tokenizer.named_tokens.get("bos_token", "")
    yield from _with_system(plain, with_system, bos)


def _without_system(render: Render, names: Sequence[str]) -> Format:
    """Prefixes and suffixes; `begin` may hold a default system turn.

    A template that ends every conversation alike, asked or not, has no generation prompt of its own.
    """
    user, answer, user2 = _TURNS
    before, between, between2, end = _split(render(conversation(_TURNS), True), *_TURNS)
    unasked = _split(render(conversation(_TURNS), False), *_TURNS)[3]
    after_answer = _split(render(conversation(_TURNS[:2]), False), *_TURNS[:2])[2]

    user_prefix = _after(between2, after_answer)
    if user_prefix is None or not before.endswith(user_prefix):
        user_prefix = _common_suffix(before, between2, names)
    answer_suffix = between2.removesuffix(user_prefix)
    user_suffix = unasked
    if unasked == end and end.startswith(answer_suffix):
        user_suffix = answer_suffix
    if not (between.startswith(user_suffix) and end.startswith(user_suffix)):
        user_suffix = commonprefix([between, end])
    return Format(
        begin=before.removesuffix(user_prefix),
        placement="none",
        system=Role("", ""),
        default=None,
        user=Role(user_prefix, user_suffix),
        assistant=Role(between.removeprefix(user_suffix), answer_suffix),
        generation_prompt=end.removeprefix(user_suffix),
    )


def _with_system(plain: Format, rendered: str, bos: str) -> Iterator[Format]:
    """`rendered` is a conversation of system, user, assistant and user sentinels."""
    user, _, user2 = _TURNS
    begin, prefix, suffix = plain.begin, plain.user.prefix, plain.user.suffix
    head, _, tail = rendered.partition(_SYSTEM)
    if user in tail and tail[: tail.index(user)].endswith(prefix):
        system_suffix = tail[: tail.index(user)].removesuffix(prefix)
        if head.startswith(begin):
            system = Role(head.removeprefix(begin), system_suffix)
            yield replace(plain, placement="turn", system=system)
        if begin.startswith(head) and begin.endswith(system_suffix):
            # Without a system message there is a turn with a default text.
            default = begin[len(head) : len(begin) - len(system_suffix)]
            start = bos if head.startswith(bos) and not prefix.startswith(bos) else ""
            system = Role(head.removeprefix(start), system_suffix)
            yield replace(plain, begin=start, placement="turn", system=system, default=default)
    for placement, sentinel in (("first_user", user), ("last_user", user2)):
        before = begin + prefix
        if placement == "last_user":
            before += user + suffix + plain.assistant.render(_TURNS[1]) + prefix
        if head.startswith(before) and sentinel in tail:
            system = Role(head.removeprefix(before), tail[: tail.index(sentinel)])
            yield replace(plain, placement=placement, system=system)


def _split(text: str, *sentinels: str) -> list[str]:
    parts = []
    for sentinel in sentinels:
        part, found, text = text.partition(sentinel)
        if not found:
            raise _NotReducible("the chat template leaves out messages or changes their order")
        parts.append(part)
    return [*parts, text]


def _after(text: str, prefix: str) -> str | None:
    return text.removeprefix(prefix) if text.startswith(prefix) else None


def _common_suffix(a: str, b: str, names: Sequence[str]) -> str:
    """The longest text that ends both and cuts no special token of either."""
    length = len(commonprefix([a[::-1], b[::-1]]))
    while any(_cuts(text, len(text) - length, names) for text in (a, b)):
        length -= 1
    return a[len(a) - length :]


def _cuts(text: str, at: int, names: Sequence[str]) -> bool:
    """Whether the position lies within an occurrence of one of `names`."""
    return any(
        0 < at - start < len(name)
        for name in names
        for start in range(max(0, at - len(name)), at)
        if text.startswith(name, start)
    )


# -- what becomes of contents --------------------------------------------------------------------


def _candidates(
    shapes: Sequence[Format], render: Render, literals: Sequence[str]
) -> Iterator[Format]:
    """The shapes with what their templates do with contents."""
    for shape in shapes:
        marker = _cut_marker(render, literals)
        for role in ("user", "assistant", *(("system",) if shape.placement != "none" else ())):
            shape = _with_strip(shape, role, render, marker)
        folds = shape.placement.endswith("_user") and shape.user.strip != Strip()
        system_blank = ("kept", "none") if shape.placement != "none" else ("kept",)
        for folded, blank in itertools.product((False, True) if folds else (False,), system_blank):
            yield replace(shape, strip_folded=folded, blank_system=blank)


def _cut_marker(render: Render, literals: Sequence[str]) -> str | None:
    """Return the text up to whose last occurrence the template leaves out an earlier answer, if any."""
    for text in literals:
        rendered = rendered_or_none(render, _with_content("assistant", f"Q1Q{text}Q2Q{text}Q3Q"))
        if rendered and "Q3Q" in rendered and "Q1Q" not in rendered and "Q2Q" not in rendered:
            return text
    return None


def _with_strip(shape: Format, name: str, render: Render, marker: str | None) -> Format:
    """`shape` with that strip of the role's contents, and that cut, which a padded content shows."""
    padded = _PADDED.format("Q")
    whole = _fitting(shape, name, _with_content(name, padded), render,
                     [replace(getattr(shape, name), strip=strip) for strip in _STRIPS])  # fmt: skip
    if name != "assistant" or marker is None:
        return whole
    role = whole.assistant
    cuts = [replace(role, cut=Cut(marker, strip)) for strip in _STRIPS]
    return _fitting(whole, name, _with_content(name, f"Q1Q{marker}{padded}"), render, cuts)


def _fitting(
    shape: Format, name: str, messages: Messages, render: Render, roles: Sequence[Role]
) -> Format:
    """`shape` with the first of `roles` that fits what the template makes of `messages`, or unchanged."""
    text = rendered_or_none(render, messages)
    shapes = (replace(shape, **{name: role}) for role in roles)
    return next((each for each in shapes if each.render(messages) == text), shape)


def _with_content(role: str, content: str) -> Messages:
    if role == "system":
        return conversation(_TURNS, content)
    at = ("user", "assistant").index(role)
    return conversation([*_TURNS[:at], content, *_TURNS[at + 1 :]])
