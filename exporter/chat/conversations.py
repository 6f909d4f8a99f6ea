"""Say what conversations are in a model's own template: the token ids that a runner must give."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.chat.conformance import DAY
from exporter.chat.template import Template
from exporter.chat.texts import CONVERSATIONS, TOOLS
from exporter.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class ExpectedConversation:
    """A conversation, what its template is told beside it and on which day, and its token ids."""

    messages: list[dict[str, object]]
    variables: Mapping[str, object]
    date: str
    ids: list[int]


def expected_conversations(
    tokenizer: Tokenizer, chat: Mapping[str, object]
) -> Iterator[ExpectedConversation]:
    """Yield each conversation of `texts` that the template takes, and its ids by the template and the
    reference tokenizer. None of a template that a runner cannot use.

    Left out are conversations that hold a special token's name, which in a template's text is that token and
    in a message plain text.
    """
    if "reason" in chat:
        return
    template = Template(tokenizer.chat_template, tokenizer.named_tokens, DAY)
    asked = chat["inputs"]
    given = [{}]
    given += [
        {name: thinks}
        for name in ("enable_thinking", "thinking")
        if name in asked
        for thinks in (True, False)
    ]
    given += [{"tools": TOOLS}] if "tools" in asked else []
    for conversation in CONVERSATIONS:
        if any(name in text for name in tokenizer.special_tokens for _, text in conversation):
            continue
        messages: list[dict[str, object]] = [{"role": role, "content": text} for role, text in conversation]
        for variables in given:
            try:
                text = template.render(messages, **variables)
            except Exception:  # the template refuses it
                continue
            yield ExpectedConversation(messages, variables, DAY.isoformat(), tokenizer.encode(text))
