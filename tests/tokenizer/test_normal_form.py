"""Unicode's normal form C in Python and C++ against `tokenizers`, whose Unicode the table's data has."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizer_files
from native_tokenizer import ask
from tokenizers import normalizers

from exporter.tokenizer.finder import Marked
from exporter.tokenizer.normal_form import Composer
from exporter.tokenizer.raw import read_raw
from exporter.tokenizer.table import NormalForm
from scripts import write_normal_form

NFC = normalizers.NFC().normalize_str
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
MARKS = [c for c in CHARACTERS if unicodedata.combining(c)]
DECOMPOSED = [c for c in CHARACTERS if unicodedata.decomposition(c)[:1] not in ("", "<")]
PARTS = sorted({part for c in DECOMPOSED for part in unicodedata.normalize("NFD", c)})
JAMO_BLOCKS = ((0x1100, 0x1115), (0x115F, 0x1178), (0x11A5, 0x11C5))
JAMO = [chr(code) for block in JAMO_BLOCKS for code in range(*block)]
SYLLABLES = [chr(code) for code in range(0xAC00, 0xAC00 + 11172, 7)]


def qwen2_json() -> bytes:
    return json.dumps(tokenizer_files.qwen2_json() | {"added_tokens": []}).encode()


@pytest.fixture(scope="module")
def form() -> NormalForm:
    """As the runner puts it into a table."""
    return read_raw(qwen2_json()).table.normal_form


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Random ones in which characters join and change places, and every character between others."""
    rng = random.Random(3)
    kinds = (MARKS, MARKS, DECOMPOSED, PARTS, JAMO, SYLLABLES, ["s", "a", "\u0323", "\u0307", " ", "x"])
    mixed = ["".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(1, 9))) for _ in range(20_000)]
    rows = ["".join(CHARACTERS[i : i + 500]) for i in range(0, len(CHARACTERS), 500)]
    return [*mixed, *rows, *(f"a{c}\u0334\u0345b" for c in MARKS), *DECOMPOSED]


def test_the_data_are_those_of_the_library(form):
    decompositions, classes = write_normal_form.decompositions(), write_normal_form.classes()
    assert form.decompositions == tuple((code, a, b) for code, a, b, _ in decompositions)
    composed = ((a, b, code) for code, a, b, together in decompositions if together)
    assert form.compositions == tuple(sorted(composed))
    assert form.classes == tuple((last, first, number) for first, last, number in classes)


def test_the_data_are_those_of_unicode_9(form):
    assert (len(form.decompositions), len(form.compositions)) == (2060, 940)
    assert sum(last - first + 1 for last, first, _ in form.classes) == 814
    for triples in (form.decompositions, form.compositions, form.classes):
        assert list(triples) == sorted(triples)
    decomposed = {code for code, _, _ in form.decompositions}
    assert not decomposed & {second for _, _, second in form.decompositions}


def test_python_equals_the_library(texts, form):
    composer = Composer(form)
    for text in texts:
        assert composer(Marked(text, (True,) * len(text))).text == NFC(text), ascii(text)


def test_native_equals_the_library(texts, tmp_path):
    file: Path = tmp_path / "tokenizer.json"
    file.write_bytes(qwen2_json())
    ids = ask(file, [{"text": text} for text in texts])
    for text, answer in zip(texts, ask(file, [{"ids": each} for each in ids]), strict=True):
        assert answer["text"] == NFC(text), ascii(text)


def test_a_character_is_markup_where_all_of_it_is(form):
    composer = Composer(form)
    marked = composer(Marked("e\u0301e\u0301\u00e9", (True, False, True, True, False)))
    assert marked == Marked("\u00e9\u00e9\u00e9", (False, True, False))
