"""Tokenizers of the families' classes as transformers saves them: their pipelines with small vocabularies."""

import json
from pathlib import Path

import pytest
import tokenizer_files
from native_tokenizer import ask
from strings import SPECIAL_STRINGS, STRINGS
from transformers import (
    CohereTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from exporter.tokenizer.tokenizer import read_tokenizer

TEXTS = (*STRINGS[::3], *SPECIAL_STRINGS[:200])


def _byte_level(maker: type, **options: object) -> PreTrainedTokenizerBase:
    model = tokenizer_files.smollm2_json()["model"]
    return maker(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], **options)


def _sentencepiece(maker: type, **options: object) -> PreTrainedTokenizerBase:
    model = tokenizer_files.llama2_json(tokenizer_files.sentencepiece_model())["model"]
    return maker(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], **options)


MADE = {
    "cohere": lambda: _byte_level(
        CohereTokenizer, unk_token="<|endoftext|>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    ),
    "gemma": lambda: _sentencepiece(GemmaTokenizer, bos_token="<s>", eos_token="</s>"),
    "gpt2": lambda: _byte_level(GPT2Tokenizer),
    "gpt_neox": lambda: _byte_level(GPTNeoXTokenizer),
    "llama": lambda: _sentencepiece(LlamaTokenizer),
    "qwen2": lambda: _byte_level(Qwen2Tokenizer),
}


@pytest.mark.parametrize("name", MADE)
def test_saved_by_transformers(name, tmp_path: Path):
    MADE[name]().save_pretrained(tmp_path)
    library = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    expected = library(list(TEXTS), add_special_tokens=False)["input_ids"]
    requests = [{"table": True}, *({"text": text} for text in TEXTS)]
    table, *answers = ask(tmp_path / "tokenizer.json", requests)
    assert bytes.fromhex(table) == tokenizer.table
    for text, want, got in zip(TEXTS, expected, answers, strict=True):
        assert got == want, repr(text)
    [begun] = ask(tmp_path / "tokenizer.json", [{"text": "a b", "bos": tokenizer.add_bos}])
    assert begun == library("a b")["input_ids"]
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["type"] == "BPE"
