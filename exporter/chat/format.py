"""The reduced form of a chat template: texts around messages, and what becomes of contents.

`runner/text/chat.cpp` applies the same form; `docs/artifact.md` describes it as JSON.
"""

from dataclasses import asdict, dataclass
from typing import Literal

Messages = list[dict[str, str]]
Trim = Literal["none", "newlines", "white_space"]


@dataclass(frozen=True)
class Strip:
    """What is dropped at the two ends of a text."""

    left: Trim = "none"
    right: Trim = "none"

    def __call__(self, text: str) -> str:
        return self.of_right(self.of_left(text))

    def of_left(self, text: str) -> str:
        return text if self.left == "none" else text.lstrip("\n" if self.left == "newlines" else None)

    def of_right(self, text: str) -> str:
        return text if self.right == "none" else text.rstrip("\n" if self.right == "newlines" else None)


@dataclass(frozen=True)
class Cut:
    """Keep of a content what follows the last `after` in it, stripped by `strip`."""

    after: str
    strip: Strip = Strip()

    def __call__(self, text: str) -> str:
        return self.strip(text.rpartition(self.after)[2]) if self.after in text else text


@dataclass(frozen=True)
class Role:
    """What stands around the contents of one role; a content is cut, then stripped."""

    prefix: str
    suffix: str
    strip: Strip = Strip()
    cut: Cut | None = None

    def content(self, text: str) -> str:
        return self.strip(self.cut(text) if self.cut else text)

    def render(self, text: str) -> str:
        return self.prefix + self.content(text) + self.suffix


@dataclass(frozen=True)
class Format:
    """The whole form. exporter/chat/reduce.py says what each field means."""

    begin: str
    placement: str
    system: Role
    default: str | None
    user: Role
    assistant: Role
    generation_prompt: str
    strip_folded: bool = False
    blank_system: Literal["kept", "none"] = "kept"

    def render(self, messages: Messages) -> str:
        """The text of a conversation, with the generation prompt."""
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        turns = messages[system is not None :]
        if system is not None and self.blank_system == "none" and not system.strip():
            system = None
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
        if not self.strip_folded:
            content = self.user.strip(content)
        content = self.system.render(system) + content
        if self.strip_folded:
            content = self.user.strip(content)
        return self.user.prefix + content + self.user.suffix

    def to_dict(self) -> dict:
        """The JSON object, but for what runners refuse and the date."""
        system = {"placement": self.placement}
        if self.placement != "none":
            system |= {**asdict(self.system), "default": self.default, "blank": self.blank_system}
        return {
            "reducible": True,
            "begin": self.begin,
            "system": system,
            "user": asdict(self.user),
            "assistant": asdict(self.assistant),
            "strip_folded": self.strip_folded,
            "generation_prompt": self.generation_prompt,
        }


def has_system(messages: Messages) -> bool:
    """Whether a conversation begins with a system message."""
    return messages[0]["role"] == "system"


def conversation(contents: list[str] | tuple[str, ...], system: str | None = None) -> Messages:
    """Messages of user and assistant in turn with `contents`, after a system message where one is given."""
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
