"""Files beside a tokenizer that hold what no tokenizer can have: refused with the file's name and the key."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizer_files
from transformers import PreTrainedTokenizerFast

from exporter.tokenizer import tokenizer as tokenizer_module
from exporter.tokenizer.tokenizer import read_tokenizer

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
TOKEN = "neither a string nor an object"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_files.smollm2_json()))
    (folder / "tokenizer.model").write_bytes(tokenizer_files.sentencepiece_model())
    return {path.name: path for path in folder.iterdir()}


def beside(made: Path, folder: Path, file: str, content: object) -> Path:
    shutil.copy(made, folder)
    (folder / file).write_text(json.dumps(content))
    return folder


def make_unigram(root: dict, vocab: list, unk_id: int | None) -> None:
    root |= {"pre_tokenizer": None, "added_tokens": []}
    root["model"] = {"type": "Unigram", "vocab": vocab, "unk_id": unk_id}


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as raised:
        read_tokenizer(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("file", [CONFIG, MAP])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("eos_token", ["a"], f'eos_token ["a"] is {TOKEN}'),
        ("pad_token", 7, f"pad_token 7 is {TOKEN}"),
        ("unk_token", False, f"unk_token false is {TOKEN}"),
        ("bos_token", {"content": 5}, f'bos_token {{"content":5}} is {TOKEN}'),
        ("bos_token", {"lstrip": True}, f'bos_token {{"lstrip":true}} is {TOKEN}'),
        ("additional_special_tokens", [5], f"in additional_special_tokens, 5 is {TOKEN}"),
        ("additional_special_tokens", ["<|a|>", None], f"in additional_special_tokens, null is {TOKEN}"),
        ("extra_special_tokens", {"image_token": [1]}, f"in extra_special_tokens, [1] is {TOKEN}"),
        ("extra_special_tokens", "<|x|>", 'extra_special_tokens "<|x|>" is neither a list nor an object'),
        ("additional_special_tokens", "<|x|>", 'additional_special_tokens "<|x|>" is neither a list nor'),
        ("extra_special_tokens", 5, "extra_special_tokens 5 is neither a list nor an object"),
    ],
)  # fmt: skip
def test_values_of_other_types(made, tmp_path, name, file, key, value, said):
    folder = beside(made[name], tmp_path, file, {key: value})
    line = refusal(folder)
    assert f"{file} beside it: {said}" in line and line.endswith("; correct or remove it")
    if name == "tokenizer.json" and file == CONFIG:
        with pytest.raises(TypeError):
            PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tokenizer_class", 5, "tokenizer_class 5 is not a string"),
        ("chat_template", ["x"], "chat_template ['x'] is no list of {"),
        ("chat_template", 5, "chat_template 5 is no text"),
        ("chat_template", [{"name": "default", "template": 5}], "chat_template 5 is no text"),
        ("chat_template", {"default": ["x"]}, "chat_template ['x'] is no text"),
        ("added_tokens_decoder", {"900": {"content": 5}}, "added_tokens_decoder"),
        ("added_tokens_decoder", [1], "added_tokens_decoder"),
    ],
)
def test_values_of_tokenizer_config(made, tmp_path, key, value, said):
    line = refusal(beside(made["tokenizer.json"], tmp_path, CONFIG, {key: value}))
    assert said in line and f"{CONFIG} beside it" in line


@pytest.mark.parametrize(
    "template",
    ["one", [{"name": "rag", "template": "two"}, {"name": "default", "template": "one"}],
     {"rag": "two", "default": "one"},
     [{"name": "default", "template": "two"}, {"name": "default", "template": "one"}]],
)  # fmt: skip
def test_templates_are_those_of_transformers(made, tmp_path, template):
    folder = beside(made["tokenizer.json"], tmp_path, CONFIG, {"chat_template": template})
    library = PreTrainedTokenizerFast.from_pretrained(folder)
    assert read_tokenizer(folder).chat_template == library.get_chat_template()


def test_a_template_file_that_is_not_utf8(made, tmp_path):
    folder = beside(made["tokenizer.json"], tmp_path, CONFIG, {})
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    assert "chat_template.jinja beside it is not UTF-8" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: root.pop("model"), "not a tokenizer.json, or a damaged one"),
        (lambda root: root.update(added_tokens=[5]), "not a tokenizer.json, or a damaged one"),
        (lambda root: root.update(pre_tokenizer={}), "not a tokenizer.json, or a damaged one"),
        (lambda root: root["model"].update(vocab=[]), "not a tokenizer.json, or a damaged one"),
        (lambda root: root["model"].update(merges=[["zz", "qq"]]), "'zzqq' is not in the vocabulary"),
        (lambda root: root["model"].update(unk_token="<none>"), 'unk_token = "<none>" is none of'),
        (lambda root: root["model"].pop("merges"), "key 'merges' not found"),
        (lambda root: root.update(version=7), "tokenizers refuses the tokenizer.json"),
        (lambda root: make_unigram(root, [["a", -1.5]], 1), "unk_id = 1"),
        (lambda root: make_unigram(root, [["a", -1.5]], None), "unk_id = null"),
        (lambda root: make_unigram(root, [["a"]], 0), "array index 1"),
        (lambda root: make_unigram(root, [["a", "b"]], 0), "must be number"),
        (lambda root: make_unigram(root, [["a", 0]] * 2, 0), "twice"),
        (lambda root: make_unigram(root, [], 0), "unk_id = 0"),
    ],
)
def test_a_damaged_tokenizer_json(tmp_path, change, said):
    root = tokenizer_files.smollm2_json()
    change(root)
    (tmp_path / "tokenizer.json").write_text(json.dumps(root))
    assert said in refusal(tmp_path)


def test_a_bug_is_not_called_a_damaged_file(made, monkeypatch):
    def wrong(*_):
        raise TypeError("a bug")

    monkeypatch.setattr(tokenizer_module, "reference_of", wrong)
    with pytest.raises(TypeError, match="a bug"):
        read_tokenizer(made["tokenizer.json"])
