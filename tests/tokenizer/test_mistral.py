"""Mistral's SentencePiece tokenizers, as a folder and as GGUF, against mistral-common."""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import mistral_reference
import pytest
import tokenizer_files
from native_tokenizer import ask
from strings import STRINGS
from transformers import LlamaTokenizer

from exporter.chat.take_over import take_over_template
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="mistral-common needs Python 3.11")


# The templates of mistral-common for conversations of text alone, without what aggregates turns.
_SYSTEM = "{% set text = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
_TURNS = (
    "{% set turns = messages[1:] if text else messages %}{{ bos_token }}{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}{{ 'BEGIN' + (text if WHERE else '') + turn['content'] + 'END' }}"
    "{% else %}{{ ' ' + turn['content'] + eos_token }}{% endif %}{% endfor %}"
)
_OLDER = _SYSTEM + _TURNS.replace("BEGIN", "[INST] ").replace("END", "[/INST]").replace("WHERE", "loop.last")
TEMPLATES = {
    "v1": _SYSTEM
    + _TURNS.replace("BEGIN", " [INST] ").replace("END", " [/INST]").replace("WHERE", "loop.first"),
    "v2": _OLDER,
    "v3": _OLDER,
    "v7": (
        "{{ bos_token }}{% for turn in messages %}{% if turn['role'] == 'system' %}"
        "{{ '[SYSTEM_PROMPT] ' + turn['content'] + '[/SYSTEM_PROMPT]' }}{% elif turn['role'] == 'user' %}"
        "{{ '[INST] ' + turn['content'] + '[/INST]' }}{% else %}{{ ' ' + turn['content'] + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
}


@dataclass(frozen=True)
class Model:
    answers: mistral_reference.Answers
    folder: Path
    gguf: Tokenizer
    gguf_table: Path
    transformers: LlamaTokenizer

    def file(self, form: str) -> Path:
        """What the C++ engine is given."""
        return self.folder / "tokenizer.model" if form == "folder" else self.gguf_table

    def tokenizer(self, form: str) -> Tokenizer:
        return read_tokenizer(self.folder) if form == "folder" else self.gguf


def _conversations() -> list[mistral_reference.Conversation]:
    """200 conversations of one to four turns of the user, some with a system message."""
    rng = random.Random(7)
    found = [[("user", "hi")], [("user", "hi"), ("assistant", "yes"), ("user", " b ")]]
    while len(found) < 200:
        turns = [("system", rng.choice(STRINGS).strip() or "s")] if rng.random() < 0.3 else []
        for i in range(n_turns := rng.randint(1, 4)):
            turns.append(("user", rng.choice(STRINGS) or "u"))
            if i < n_turns - 1:
                turns.append(("assistant", rng.choice(STRINGS).strip() or "a"))
        found.append(turns)
    return found


CONVERSATIONS = _conversations()
FORMS = ("folder", "gguf")


@pytest.fixture(scope="module")
def answers() -> dict[str, mistral_reference.Answers]:
    return mistral_reference.ask_library(list(STRINGS), CONVERSATIONS, mistral_reference.FILES)


@pytest.fixture(scope="module", params=mistral_reference.FILES)
def model(request, answers, tmp_path_factory) -> Model:
    answers = answers[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    data = mistral_reference.model_file(mistral_reference.FILES[request.param]).read_bytes()
    (folder / "tokenizer.model").write_bytes(data)
    config = {"tokenizer_class": "LlamaTokenizer", "chat_template": TEMPLATES[request.param]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer_files.write_sentencepiece_gguf(data, folder / "m.gguf", TEMPLATES[request.param])
    gguf = read_tokenizer(folder / "m.gguf")
    (folder / "gguf.table").write_bytes(gguf.table)
    return Model(answers, folder, gguf, folder / "gguf.table", LlamaTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("form", FORMS)
def test_strings(model, form):
    ids = ask(model.file(form), [{"text": text, "plain": True} for text in STRINGS])
    assert len(STRINGS) > 2000
    for text, got, want in zip(STRINGS, ids, model.answers.texts, strict=True):
        assert got == want, repr(text)


@pytest.mark.parametrize("form", FORMS)
def test_conversations(model, form):
    tokenizer = model.tokenizer(form)
    chat = take_over_template(tokenizer.chat_template, tokenizer)
    assert "reason" not in chat, chat
    requests = [{"messages": turns, "generation_prompt": True} for turns in CONVERSATIONS]
    got = ask(model.file(form), requests, chat)
    for turns, ids, want in zip(CONVERSATIONS, got, model.answers.conversations, strict=True):
        assert ids == want, turns


@pytest.mark.parametrize("form", FORMS)
def test_control_tokens_in_a_raw_prompt(model, form):
    """As transformers reads the same file; its merges are not the file's where blanks are doubled."""
    tokenizer = model.tokenizer(form)
    texts = ["b</s>", "<s>b", "a</s>b</s> c", "a </s> b\n<s>\n", "<unk>é", "</s", "x<s></s>\t"]
    texts += [f"a{name}b {name} {name}c" for name in tokenizer.special_tokens]
    for text, ids in zip(texts, ask(model.file(form), [{"text": text} for text in texts]), strict=True):
        assert ids == model.transformers.encode(text, add_special_tokens=False), text
        assert ids == tokenizer.encode(text)


def test_the_librarys_own_template(model):
    """It gives the library's ids."""
    chat = take_over_template(model.answers.template, model.tokenizer("folder"))
    assert "reason" not in chat, chat
    requests = [{"messages": turns, "generation_prompt": True} for turns in CONVERSATIONS]
    assert ask(model.file("folder"), requests, chat) == model.answers.conversations
