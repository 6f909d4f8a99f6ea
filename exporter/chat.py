"""Chat templates reduced to a few strings, so that a runner needs no Jinja.

`reduce_template` renders a template with sentinel messages, reads off what it puts around them, and
then checks the result against Jinja itself on conversations of up to four user turns. The result is
a JSON object:

    reducible         true, or false with only "reason" beside it
    begin             text before everything
    system            placement: "turn" (a turn of its own), "first_user" or "last_user" (put before
                      the content of that user turn) or "none" (refused or dropped);
                      prefix, suffix; strip; default: the text where none is given, or null
    user, assistant   prefix, suffix; strip: white space at the content's ends is dropped
    strip_folded      user.strip acts on system text and content together
    generation_prompt text that makes the model answer
    date              only if the template asks for today's date: the day of the export, which the
                      strings above now hold

A conversation is an optional system message, then user and assistant in turn; the user has the last
word, and the generation prompt follows. A tokenizer reads the strings above as markup, in which
special tokens are recognised, and contents as plain text.
"""

import datetime
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SYSTEM = "Qsys0Q"
_CONTENTS = tuple(f"Q{role}{i}Q" for i in range(4) for role in ("user", "answer"))


@dataclass(frozen=True)
class _Role:
    prefix: str
    suffix: str
    strip: bool = False

    def render(self, content: str) -> str:
        return self.prefix + (content.strip() if self.strip else content) + self.suffix


@dataclass(frozen=True)
class _Format:
    begin: str
    placement: str
    system: _Role
    default: str | None
    user: _Role
    assistant: _Role
    generation_prompt: str
    strip_folded: bool = False

    def render(self, messages: list[dict]) -> str:
        """With the generation prompt."""
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        turns = messages[system is not None :]
        out = self.begin
        if self.placement == "turn" and (system is not None or self.default is not None):
            out += self.system.render(self.default if system is None else system)
        folded_at = {"first_user": 0, "last_user": (len(turns) - 1) // 2 * 2}.get(self.placement)
        for i, message in enumerate(turns):
            content = message["content"]
            if i % 2 == 1:
                out += self.assistant.render(content)
            elif system is not None and i == folded_at:
                out += self._render_folded(system, content)
            else:
                out += self.user.render(content)
        return out + self.generation_prompt

    def _render_folded(self, system: str, content: str) -> str:
        if self.user.strip and not self.strip_folded:
            content = content.strip()
        content = self.system.render(system) + content
        if self.user.strip and self.strip_folded:
            content = content.strip()
        return self.user.prefix + content + self.user.suffix

    def to_dict(self) -> dict:
        def role(value: _Role) -> dict:
            return {"prefix": value.prefix, "suffix": value.suffix, "strip": value.strip}

        system = {"placement": self.placement}
        if self.placement != "none":
            system |= {**role(self.system), "default": self.default}
        return {
            "reducible": True,
            "begin": self.begin,
            "system": system,
            "user": role(self.user),
            "assistant": role(self.assistant),
            "strip_folded": self.strip_folded,
            "generation_prompt": self.generation_prompt,
        }


class _NotReducible(Exception):
    """The template has a shape that a _Format does not have."""


def reduce_template(template: str | None, tokenizer) -> dict:
    """The JSON object described above. `tokenizer` names bos and eos (exporter.tokenizer)."""
    if template is None:
        return {"reducible": False, "reason": "the checkpoint has no chat template"}
    today = datetime.date.today()
    asked_for_date: list[str] = []

    def strftime_now(format: str) -> str:
        asked_for_date.append(format)
        return today.strftime(format)

    try:
        render = renderer(template, tokenizer, strftime_now)
        reduced = _reduce(render, tokenizer.token_name(tokenizer.bos_id)).to_dict()
    except _NotReducible as error:
        return {"reducible": False, "reason": str(error)}
    except Exception as error:  # a template can fail in any way, as any program can
        return {"reducible": False, "reason": f"the chat template fails: {_one_line(error)}"}
    return reduced | ({"date": today.isoformat()} if asked_for_date else {})


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def renderer(
    template: str, tokenizer, strftime_now: Callable[[str], str]
) -> Callable[[list[dict], bool], str]:
    """What transformers does in apply_chat_template. Source: utils/chat_template_utils.py."""

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    compiled = environment.from_string(template)
    names = {
        "bos_token": tokenizer.token_name(tokenizer.bos_id),
        "eos_token": tokenizer.token_name(tokenizer.eos_id),
    }

    def render(messages: list[dict], generation_prompt: bool) -> str:
        return compiled.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=generation_prompt,
            **names,
        )

    return render


def _conversation(n_messages: int, system: str | None, contents=_CONTENTS) -> list[dict]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = itertools.cycle(("user", "assistant"))
    return first + [{"role": r, "content": c} for r, c in zip(roles, contents[:n_messages], strict=False)]


def _reduce(render: Callable[[list[dict], bool], str], bos: str) -> _Format:
    """The first candidate that agrees with `render` on every conversation of the check."""
    candidates = list(_candidates(render, bos))
    if not candidates:
        raise _NotReducible("the chat template puts system text where no known template does")
    takes_system = candidates[0].placement != "none"
    conversations = list(_check_conversations(takes_system))
    wanted = [render(conversation, True) for conversation in conversations]
    for candidate in candidates:
        if all(candidate.render(c) == text for c, text in zip(conversations, wanted, strict=False)):
            return candidate
    raise _NotReducible("the chat template does not put the same text around every turn")


def _check_conversations(takes_system: bool) -> Iterator[list[dict]]:
    """One to four turns of the user, with and without system text, plain and in white space."""
    blanks = (" \n{}\t ", "{}  ", "\n\n{}", "{}\n", "  {}", "{}", "\u3000{}\u00a0")
    padded = tuple(blank.format(c) for blank, c in zip(blanks, _CONTENTS, strict=False))
    for contents, system in ((_CONTENTS, _SYSTEM), (padded, f" \n{_SYSTEM} \n")):
        for n_messages in (1, 3, 5, 7):
            yield _conversation(n_messages, None, contents)
            if takes_system:
                yield _conversation(n_messages, system, contents)


def _candidates(render: Callable[[list[dict], bool], str], bos: str) -> Iterator[_Format]:
    """Formats read off from rendered sentinels, some of which may not hold."""
    plain = _without_system(render)
    user, assistant = plain.user, plain.assistant
    try:
        with_system = render(_conversation(3, _SYSTEM), False)
    except jinja2.exceptions.TemplateError:
        shapes = [plain]
    else:
        dropped = _SYSTEM not in with_system
        shapes = [plain] if dropped else list(_with_system(plain, with_system, bos))
    for shape in shapes:
        for strips in itertools.product((False, True), repeat=4):
            if strips[3] and not (strips[0] and shape.placement.endswith("_user")):
                continue
            yield replace(
                shape,
                user=replace(user, strip=strips[0]),
                assistant=replace(assistant, strip=strips[1]),
                system=replace(shape.system, strip=strips[2]),
                strip_folded=strips[3],
            )


def _without_system(render: Callable[[list[dict], bool], str]) -> _Format:
    """Prefixes and suffixes; `begin` may hold a default system turn."""
    user, answer, user2 = _CONTENTS[:3]
    before, between, between2, user_suffix = _split(
        render(_conversation(3, None), False), user, answer, user2
    )
    assistant_suffix = _split(render(_conversation(2, None), False), user, answer)[2]
    without, with_prompt = (render(_conversation(1, None), flag) for flag in (False, True))
    user_prefix = _cut(between2, assistant_suffix, "")
    return _Format(
        begin=_cut(before, "", user_prefix),
        placement="none",
        system=_Role("", ""),
        default=None,
        user=_Role(user_prefix, user_suffix),
        assistant=_Role(_cut(between, user_suffix, ""), assistant_suffix),
        generation_prompt=_cut(with_prompt, without, ""),
    )


def _with_system(plain: _Format, rendered: str, bos: str) -> Iterator[_Format]:
    """`rendered` is a conversation of system, user, assistant and user sentinels."""
    user, _, user2 = _CONTENTS[:3]
    begin, prefix, suffix = plain.begin, plain.user.prefix, plain.user.suffix
    head, _, tail = rendered.partition(_SYSTEM)
    if user in tail and tail[: tail.index(user)].endswith(prefix):
        system_suffix = tail[: tail.index(user)].removesuffix(prefix)
        if head.startswith(begin):
            system = _Role(head.removeprefix(begin), system_suffix)
            yield replace(plain, placement="turn", system=system)
        if begin.startswith(head) and begin.endswith(system_suffix):
            # Without a system message there is a turn with a default text.
            default = begin[len(head) : len(begin) - len(system_suffix)]
            start = bos if head.startswith(bos) and not prefix.startswith(bos) else ""
            system = _Role(head.removeprefix(start), system_suffix)
            yield replace(plain, begin=start, placement="turn", system=system, default=default)
    for placement, sentinel in (("first_user", user), ("last_user", user2)):
        before = begin + prefix
        if placement == "last_user":
            before += user + suffix + plain.assistant.render(_CONTENTS[1]) + prefix
        if head.startswith(before) and sentinel in tail:
            system = _Role(head.removeprefix(before), tail[: tail.index(sentinel)])
            yield replace(plain, placement=placement, system=system)


def _split(text: str, *sentinels: str) -> list[str]:
    parts = []
    for sentinel in sentinels:
        part, found, text = text.partition(sentinel)
        if not found:
            raise _NotReducible("the chat template leaves out messages or changes their order")
        parts.append(part)
    return [*parts, text]


def _cut(text: str, prefix: str, suffix: str) -> str:
    if not text.startswith(prefix) or not text.removeprefix(prefix).endswith(suffix):
        raise _NotReducible("the chat template does not put the same text around every turn")
    return text.removeprefix(prefix).removesuffix(suffix)
