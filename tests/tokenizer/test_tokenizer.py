"""Tokenizers: the table's engines in Python and C++ against the reference libraries."""

import base64
import json
from pathlib import Path

import pytest
import tiny
import tokenizer_files
from native import export, generate
from native_tokenizer import ask, ask_error
from strings import SPECIAL_STRINGS, STRINGS
from tokenizer_files import SMOLLM2
from transformers import PreTrainedTokenizerFast

from exporter.tokenizer import tokenizer as tokenizer_module
from exporter.tokenizer.engine import Engine
from exporter.tokenizer.sample import SAMPLE
from exporter.tokenizer.table import HEADER, Flag, PieceType, Table
from exporter.tokenizer.tokenizer import read_tokenizer

RAW = (
    "smollm2.json",
    "llama3.json",
    "qwen2.json",
    "previous.json",
    "gemma.json",
    "llama2.json",
    "llama2-normalized.json",
    "metaspace-first.json",
    "metaspace-always.json",
    "metaspace-never.json",
    "sentencepiece.model",
    "collapse.model",
    "no-prefix.model",
    "tiktoken.model",
    "glm4.json",
    "phi4.json",
    "unigram.json",
    "unigram.model",
    "tekken.json",
)
ALL = (*RAW, "gguf")  # which has no raw reader
BYTE_LEVEL = ("smollm2.json", "llama3.json", "tiktoken.model", "tekken.json", "phi4.json")
TEXTS = STRINGS + SPECIAL_STRINGS


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    paths = tokenizer_files.write_all(tmp_path_factory.mktemp("tokenizers"))
    assert set(paths) | {"gguf"} == set(ALL)
    return paths | {"gguf": SMOLLM2}


@pytest.fixture(scope="module")
def tokenizers(files):
    return {name: read_tokenizer(path) for name, path in files.items()}


@pytest.fixture(scope="module")
def native_paths(files, tokenizers, tmp_path_factory) -> dict[str, Path]:
    """What the C++ engine is given: raw files, and the table where there is no raw reader."""
    table = tmp_path_factory.mktemp("table") / "gguf.table"
    table.write_bytes(tokenizers["gguf"].table)
    return files | {"gguf": table}


def plain_ids(tokenizer, text: str) -> list[int]:
    types = tokenizer.source.types
    return [id for id in tokenizer.encode(text) if types[id] != PieceType.CONTROL]


def test_there_are_enough_texts():
    assert len(STRINGS) > 2000
    assert len([text for text in TEXTS if "\n" not in text]) > 1500


@pytest.mark.parametrize("name", ALL)
def test_python_engine_equals_reference(tokenizers, name):
    tokenizer = tokenizers[name]
    engine = Engine(tokenizer.source)
    offset = ALL.index(name)
    for text in TEXTS[offset::8]:
        assert engine.encode(text) == tokenizer.encode(text), repr(text)
        ids = plain_ids(tokenizer, text)
        assert engine.decode(ids) == tokenizer.decode(ids), repr(text)


@pytest.mark.parametrize("name", ALL)
def test_native_engine_equals_reference(tokenizers, native_paths, name):
    tokenizer = tokenizers[name]
    encoded = ask(native_paths[name], [{"text": text} for text in TEXTS])
    for text, ids in zip(TEXTS, encoded, strict=True):
        assert ids == tokenizer.encode(text), repr(text)
    all_ids = [plain_ids(tokenizer, text) for text in TEXTS]
    for ids, decoded in zip(all_ids, ask(native_paths[name], [{"ids": i} for i in all_ids]), strict=True):
        assert decoded["text"] == tokenizer.decode(ids)
        assert "".join(decoded["pieces"]) == decoded["text"]


@pytest.mark.parametrize("name", RAW)
def test_raw_file_gives_the_exporters_table(tokenizers, files, name):
    assert bytes.fromhex(ask(files[name], [{"table": True}])[0]) == tokenizers[name].table


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_text_survives(native_paths, name):
    texts = [text for text in TEXTS if "<|tool|>" not in text]  # which takes white space after it
    encoded = ask(native_paths[name], [{"text": text, "plain": True} for text in texts])
    decoded = ask(native_paths[name], [{"ids": ids} for ids in encoded])
    assert [answer["text"] for answer in decoded] == texts


@pytest.mark.parametrize("name", ("sentencepiece.model", "llama2.json", "unigram.model", "gguf"))
def test_text_without_marks_survives(native_paths, name):
    # SmolLM2's vocabulary has 21 bytes less than all: such characters are lost there.
    texts = [text for text in STRINGS if "\u2581" not in text]
    if name == "gguf":
        texts = [text for text in texts if text.isascii() and text.isprintable()]
    encoded = ask(native_paths[name], [{"text": text, "plain": True} for text in texts])
    decoded = ask(native_paths[name], [{"ids": ids} for ids in encoded])
    assert [answer["text"] for answer in decoded] == texts


@pytest.mark.parametrize("name", ALL)
def test_plain_text_is_never_special(tokenizers, native_paths, name):
    types = tokenizers[name].source.types
    special = list(tokenizers[name].special_tokens)
    texts = [*special, *(f"a {s}{s}\nb" for s in special), *SPECIAL_STRINGS[:100]]
    for ids in ask(native_paths[name], [{"text": text, "plain": True} for text in texts]):
        assert all(types[id] != PieceType.CONTROL for id in ids)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    tiny.make_hf(folder / "model", "llama2")
    export(folder / "model", "--max-seq-length", 128, "--output-pte", folder / "m.pte")
    return folder / "m.pte"


@pytest.mark.parametrize("name", RAW)
def test_tokenize_mode(tokenizers, files, artifact, name):
    texts = [text for text in TEXTS if "\n" not in text]
    lines = generate(artifact, "--tokenize", "-z", files[name], stdin="\n".join(texts)).split("\n")
    assert lines.pop() == ""
    for text, line in zip(texts, lines, strict=True):
        assert json.loads(line) == tokenizers[name].encode(text), repr(text)


def test_properties(tokenizers):
    smollm2 = tokenizers["gguf"]
    assert (smollm2.kind, smollm2.n_pieces, smollm2.add_bos) == ("gguf", 49152, False)
    assert (smollm2.bos_id, smollm2.eos_id) == (1, 2)
    assert "<|im_start|>" in smollm2.chat_template
    llama3 = tokenizers["llama3.json"]
    assert llama3.add_bos and llama3.bos_id == llama3.special_tokens["<|begin_of_text|>"]
    model = tokenizers["sentencepiece.model"]
    assert (model.kind, model.bos_id, model.eos_id, model.add_bos) == ("sentencepiece", 1, 2, True)
    tiktoken = tokenizers["tiktoken.model"]
    assert tiktoken.n_pieces == tiktoken.bos_id + 256 and tiktoken.eos_id == tiktoken.bos_id + 1


def test_table_header(tokenizers):
    tokenizer = tokenizers["gguf"]
    magic, version, flags, n_pieces, *_ = HEADER.unpack_from(tokenizer.table)
    assert (magic, version, n_pieces) == (b"TOKTABLE", 2, 49152)
    assert Flag(flags) == Flag.BYTE_UNITS
    magic, version, flags, *_ = HEADER.unpack_from(tokenizers["qwen2.json"].table)
    assert (version, Flag(flags)) == (3, Flag.BYTE_UNITS | Flag.NFC)


@pytest.mark.parametrize(
    ("name", "version", "flags"),
    [
        ("glm4.json", 4, Flag.BYTE_UNITS | Flag.IGNORE_MERGES | Flag.ADD_BOS | Flag.PREFIX_TOKENS),
        ("phi4.json", 4, Flag.BYTE_UNITS | Flag.SPLIT_KINDS),
        ("unigram.model", 4, Flag.UNIGRAM | Flag.MERGE_BY_SCORE | Flag.FUSE_UNK | Flag.BYTE_FALLBACK
         | Flag.PREFIX_SPACE | Flag.PREFIX_FIRST_ONLY | Flag.ESCAPE_SPACES | Flag.STRIP_DECODED_SPACE
         | Flag.ADD_BOS),
        ("unigram.json", 4, Flag.UNIGRAM | Flag.FUSE_UNK | Flag.BYTE_FALLBACK | Flag.METASPACE
         | Flag.PREFIX_SPACE | Flag.STRIP_DECODED_SPACE | Flag.REPLACEMENTS | Flag.NFC),
        ("tekken.json", 4, Flag.BYTE_UNITS | Flag.MERGE_BY_SCORE | Flag.IGNORE_MERGES | Flag.SPLIT_KINDS
         | Flag.ADD_BOS),
    ],
)  # fmt: skip
def test_tables_of_version_4(tokenizers, name, version, flags):
    data = tokenizers[name].table
    assert HEADER.unpack_from(data)[1:3] == (version, int(flags))
    assert Table.from_bytes(data) == tokenizers[name].source


def test_several_tokens_before_a_text(tokenizers, files, tmp_path):
    tokenizer = tokenizers["glm4.json"]
    names = [tokenizer.token_name(id) for id in tokenizer.source.prefix]
    assert names == ["[gMASK]", "<sop>"] and tokenizer.token_name(tokenizer.bos_id) == "[gMASK]"
    library = PreTrainedTokenizerFast(tokenizer_file=str(files["glm4.json"]))
    want = library("a b")["input_ids"]
    assert want[:2] == list(tokenizer.source.prefix)
    assert ask(files["glm4.json"], [{"text": "a b", "bos": True}]) == [want]


def test_siblings_of_a_hugging_face_folder(files, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(files["llama3.json"].read_bytes())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": {"content": "<|eot_id|>", "lstrip": False},
        "chat_template": [
            {"name": "tool_use", "template": "x"},
            {"name": "default", "template": "y"},
        ],
        "add_bos_token": False,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.token_name(tokenizer.eos_id) == "<|eot_id|>"
    assert tokenizer.chat_template == "y" and tokenizer.add_bos
    assert bytes.fromhex(ask(path, [{"table": True}])[0]) == tokenizer.table

    (tmp_path / "chat_template.jinja").write_text("z")
    config["tokenizer_class"] = "LlamaTokenizerFast"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.chat_template == "z" and not tokenizer.add_bos
    assert bytes.fromhex(ask(path, [{"table": True}])[0]) == tokenizer.table


def _edited(**parts) -> bytes:
    return json.dumps(tokenizer_files.smollm2_json() | parts).encode()


def _edited_model(**parts) -> bytes:
    root = tokenizer_files.smollm2_json()
    return json.dumps(root | {"model": root["model"] | parts}).encode()


def _entry(content: str, **flags: bool) -> dict:
    defaults = dict.fromkeys(("special", "normalized", "single_word", "lstrip", "rstrip"), False)
    id = len(tokenizer_files.smollm2_json()["model"]["vocab"])
    return {"id": id, "content": content} | defaults | flags


_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}],
}
_BERT = {"type": "BertPreTokenizer"}
_SPLIT = {
    "type": "Split", "pattern": {"String": "a"}, "behavior": "MergedWithAll", "invert": False,
}  # fmt: skip
UNSUPPORTED = {
    "NFKC": lambda: _edited(normalizer={"type": "NFKC"}),
    "MergedWithAll": lambda: _edited(pre_tokenizer=_SPLIT),
    "BertPreTokenizer": lambda: _edited(pre_tokenizer=_BERT),
    "TemplateProcessing": lambda: _edited(post_processor=_TEMPLATE),
    "WordPiece": lambda: _edited(decoder={"type": "WordPiece"}),
    "WordLevel": lambda: _edited_model(type="WordLevel"),
    "Precompiled": lambda: _edited(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "is an empty text": lambda: _edited(
        normalizer={"type": "Strip", "strip_left": True, "strip_right": False},
        added_tokens=[_entry("  ", normalized=True)],
    ),
    "can match nothing": lambda: _edited(
        normalizer={"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"}
    ),
    "with the model Unigram": lambda: _edited_model(type="Unigram", vocab=[["a", -1]], unk_id=0),
    "continuing_subword_prefix": lambda: _edited_model(continuing_subword_prefix="##"),
    "type word": lambda: tokenizer_files.sentencepiece_model(model_type="word", vocab_size=500),
    "nmt_nfkc": lambda: tokenizer_files.sentencepiece_model(normalization_rule_name="nmt_nfkc"),
    "treat_whitespace_as_suffix": lambda: tokenizer_files.sentencepiece_model(
        treat_whitespace_as_suffix=True
    ),
    "is not the tiktoken token": lambda: base64.b64encode(b"a") + b" 0\nx y\n",
    "only Llama 3's": lambda: b"".join(
        base64.b64encode(rank.to_bytes(3, "big")) + b" %d\n" % rank for rank in range(128_001)
    ),
    "single bytes": lambda: base64.b64encode(b"a") + b" 0\n",
    "empty": lambda: b"",
    "SentencePiece": lambda: b"neither of them",
}


@pytest.mark.parametrize("named", UNSUPPORTED)
def test_unsupported_is_named(tmp_path, named):
    path = tmp_path / "tokenizer.any"
    path.write_bytes(UNSUPPORTED[named]())
    with pytest.raises(ValueError, match=named) as raised:
        read_tokenizer(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    message = ask_error(path)
    assert named in message and str(path) in message and message.count("\n") == 1


def test_mismatch_with_the_reference_is_an_error(files, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "SAMPLE", (*SAMPLE[:3], "it differs"))
    read_tokenizer(files["llama3.json"])
    encode = tokenizer_module.Engine.encode
    monkeypatch.setattr(
        tokenizer_module.Engine,
        "encode",
        lambda self, text: encode(self, text) + [0] * text.startswith("it"),
    )
    with pytest.raises(ValueError, match="'it differs'"):
        read_tokenizer(files["llama3.json"])


def test_without_the_runners_library_a_line_says_so(files, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNNER_MODULES", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="scripts/build_native.sh"):
        read_tokenizer(files["llama3.json"])


def test_missing_file():
    with pytest.raises(FileNotFoundError):
        read_tokenizer(Path("/no/such/tokenizer.json"))
