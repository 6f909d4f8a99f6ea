"""Say what conversations are in a model's own template: the token ids that a runner must give."""

from collections.abc import Iterator

from exporter.chat.differences import is_refused
from exporter.chat.template import Template
from exporter.chat.texts import CONVERSATIONS
from exporter.tokenizer.tokenizer import Tokenizer

Conversation = tuple[tuple[str, str], ...]  # (role, content) of each message


def expected_conversations(tokenizer: Tokenizer, chat: dict) -> Iterator[tuple[Conversation, list[int]]]:
    """Yield each conversation of `texts` that the template takes, and its ids by the template and the
    reference tokenizer. None of a template that was not reduced, and of one that holds a day.

    Left out are conversations that hold a special token's name, which in a template's text is that token and
    in a message plain text, and those that a runner refuses because the template takes them for more than
    text.
    """
    if not chat["reducible"] or "date" in chat:
        return
    render = Template(tokenizer.chat_template, tokenizer.named_tokens).render
    takes_system = chat["system"]["placement"] != "none"
    refused = [(role, text) for role, texts in chat.get("refused", {}).items() for text in texts]
    for conversation in CONVERSATIONS:
        if conversation[0][0] == "system" and not takes_system:
            continue
        if any(name in text for name in tokenizer.special_tokens for _, text in conversation):
            continue
        messages = [{"role": role, "content": text} for role, text in conversation]
        if is_refused(messages, refused):
            continue
        yield conversation, tokenizer.encode(render(messages))
