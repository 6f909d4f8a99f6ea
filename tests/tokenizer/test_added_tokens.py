"""Added tokens of every file, flag and kind of text, against the reference libraries."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tokenizer_files
from native import ET_RUN, ROOT, export, run
from native_tokenizer import ask, ask_error
from random_tokenizers import random_text
from strings import SPECIAL_STRINGS, STRINGS
from tokenizers import AddedToken
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from exporter.tokenizer.engine import Engine, Span
from exporter.tokenizer.table import PieceType
from exporter.tokenizer.tokenizer import read_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def entry(content: str, **flags: bool) -> dict:
    """One token as added_tokens_decoder holds it."""
    defaults = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), False)
    return {"content": content} | defaults | flags


TURN, END = entry("<|turn|>", special=True), entry("<|end|>", special=True, rstrip=True)
WORD = entry("Wört", single_word=True, normalized=True)
SPACED = entry(" x", normalized=True)


def beside(first_id: int) -> dict[str, dict[str, dict]]:
    """Files beside a tokenizer of `first_id` tokens, by what they are an example of."""
    listed = {str(first_id + i): token for i, token in enumerate((TURN, END, WORD, SPACED))}
    names = {token["content"]: int(id) for id, token in listed.items()}
    return {
        "added_tokens_decoder": {
            "tokenizer_config.json": {"added_tokens_decoder": listed, "eos_token": "<|end|>"}
        },
        "added_tokens.json": {
            "added_tokens.json": names,
            "tokenizer_config.json": {"extra_special_tokens": ["<|turn|>"], "eos_token": "<|end|>"},
        },
        "special_tokens_map.json": {
            "special_tokens_map.json": {
                "eos_token": {"content": "<|end|>", "rstrip": True}, "pad_token": "<p>",
            },
            "tokenizer_config.json": {"eos_token": "<|no|>"},
        },
        "named": {
            "tokenizer_config.json": {
                "eos_token": "<|end|>", "sep_token": "|", "image_token": "<|turn|>",
                "additional_special_tokens": ["Wört", " x"],
            },
        },
        "extra by name": {"tokenizer_config.json": {"extra_special_tokens": {"turn": "<|turn|>"}}},
    }  # fmt: skip


KINDS = tuple(beside(0))


def texts(seed: int = 3) -> list[str]:
    rng = random.Random(seed)
    names = ["<|turn|>", "<|end|>", "Wört", " x", "<s>", "</s>", "|", "<p>"]
    found = [random_text(rng, names, 8) for _ in range(150)]
    return [*found, "<|turn|>user\nhi<|end|> \n", "Wörter Wört, xWört", *SPECIAL_STRINGS[:100]]


def write(folder: Path, name: str, content: bytes, files: dict[str, dict], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    files = {"tokenizer_config.json": {}} | files
    files["tokenizer_config.json"] = files["tokenizer_config.json"] | config
    for file, object in files.items():
        (folder / file).write_text(json.dumps(object))
    return folder


def same_everywhere(folder: Path, name: str, reference, some_texts: list[str]) -> None:
    """Python's engine, the C++ raw reader and engine, and the library give the same ids."""
    tokenizer = read_tokenizer(folder)
    engine = Engine(tokenizer.source)
    table, *answers = ask(folder / name, [{"table": True}, *({"text": text} for text in some_texts)])
    assert bytes.fromhex(table) == tokenizer.table
    for text, ids in zip(some_texts, answers, strict=True):
        want = reference.encode(text, add_special_tokens=False)
        assert (ids, tokenizer.encode(text)) == (want, want), repr(text)
    for text in some_texts[::10]:
        assert engine.encode(text) == tokenizer.encode(text), repr(text)
    assert tokenizer.eos_id == reference.eos_token_id or reference.eos_token_id is None


@pytest.mark.parametrize("kind", KINDS)
def test_beside_tokenizer_json(tmp_path, kind):
    root = tokenizer_files.smollm2_json()
    n_tokens = 1 + max(*root["model"]["vocab"].values(), *(t["id"] for t in root["added_tokens"]))
    files = beside(n_tokens)[kind]
    if "added_tokens_decoder" in files["tokenizer_config.json"]:
        files["tokenizer_config.json"]["added_tokens_decoder"] |= {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in root["added_tokens"]
        }
    folder = write(tmp_path, "tokenizer.json", json.dumps(root).encode(), files)
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    same_everywhere(folder, "tokenizer.json", reference, texts())


@pytest.fixture(scope="module")
def model() -> bytes:
    # In transformers merges follow the order of pieces; without pieces of blanks that is the scores'.
    return tokenizer_files.sentencepiece_model(allow_whitespace_only_pieces=False, user_defined_symbols=[])


@pytest.mark.parametrize("legacy", (False, True))
@pytest.mark.parametrize("kind", KINDS)
def test_beside_tokenizer_model(tmp_path, model, kind, legacy):
    folder = write(
        tmp_path, "tokenizer.model", model, beside(1400)[kind],
        tokenizer_class="LlamaTokenizer", legacy=legacy,
    )  # fmt: skip
    reference = LlamaTokenizer.from_pretrained(folder)
    # SentencePiece puts a space before a text that begins with one, transformers does not.
    # And where a config lists further special tokens, transformers forgets the model's own </s>.
    left_out = ("\u2581", "</s>") if kind in ("added_tokens.json", "named") else ("\u2581",)
    some = [text for text in texts() if text[:1] != " " and not any(part in text for part in left_out)]
    same_everywhere(folder, "tokenizer.model", reference, some)


def test_beside_tiktoken(tmp_path):
    data = tokenizer_files.tiktoken_model()
    n_ranks = data.count(b"\n")
    listed = {str(n_ranks + 5): entry("<|turn|>", special=True), str(n_ranks + 256): entry("Wört")}
    folder = write(tmp_path, "tokenizer.model", data, {}, added_tokens_decoder=listed, eos_token="<|turn|>")
    tokenizer = read_tokenizer(folder)
    assert tokenizer.eos_id == n_ranks + 5 and tokenizer.n_pieces == n_ranks + 257
    table, ids = ask(folder / "tokenizer.model", [{"table": True}, {"text": "<|turn|>Wört"}])
    assert bytes.fromhex(table) == tokenizer.table
    assert ids == tokenizer.encode("<|turn|>Wört") == [n_ranks + 5, n_ranks + 256]
    gap = {"added_tokens_decoder": {str(n_ranks + 999): TURN}}
    write(tmp_path / "gap", "tokenizer.model", data, {"tokenizer_config.json": gap})
    with pytest.raises(ValueError, match="leaves a gap"):
        read_tokenizer(tmp_path / "gap")
    assert "leaves a gap" in ask_error(tmp_path / "gap" / "tokenizer.model")


@pytest.mark.parametrize("name", ("tokenizer.json", "tokenizer.model"))
@pytest.mark.parametrize(
    "file, content, words",
    (
        ("added_tokens.json", {"<|turn|>": 9999}, "'<|turn|>' has id 9999"),
        ("added_tokens.json", {"<|turn|>": "7"}, "added_tokens.json"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": TURN}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1400": {}}}, "added_tokens_decoder"),
        ("special_tokens_map.json", [], "special_tokens_map.json"),
    ),
)
def test_what_cannot_be_is_named(tmp_path, model, name, file, content, words):
    data = model if name == "tokenizer.model" else json.dumps(tokenizer_files.smollm2_json()).encode()
    folder = write(tmp_path, name, data, {})
    (folder / "tokenizer_config.json").unlink()
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ValueError) as raised:
        read_tokenizer(folder)
    for message in (str(raised.value), ask_error(folder / name)):
        assert words in message and message.strip().count("\n") == 0


# Of these, "ß" and "é" are bytes of the vocabulary too, which other characters are made of.
LETTERS = ("öne", "ß", "é", "ü")


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    """A folder of a model that has letters among its added tokens, and a chat template."""
    folder = tmp_path_factory.mktemp("letters")
    tiny.make_hf(folder, "llama2")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in LETTERS])
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True), AddedToken("<|end|>", special=True)])
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = tiny.read_json(folder / "config.json")
    assert len(tokenizer) > config["vocab_size"]  # the last of them have no row
    return folder


def test_letters_of_the_byte_alphabet(letters):
    tokenizer = read_tokenizer(letters)
    some = [*STRINGS[::5], "Föne öne straße Führer ߀ߊ éé", "".join(LETTERS)]
    some += [letter + text for letter in LETTERS for text in STRINGS[:40]]
    library = PreTrainedTokenizerFast.from_pretrained(letters)
    same_everywhere(letters, "tokenizer.json", library, some)
    ids = [tokenizer.encode(text) for text in some]
    for one, answer in zip(ids, ask(letters / "tokenizer.json", [{"ids": one} for one in ids]), strict=True):
        assert answer["text"] == library.decode(one)


def test_content_holds_tokens_that_are_not_special(letters):
    tokenizer = read_tokenizer(letters)
    library = PreTrainedTokenizerFast.from_pretrained(letters).backend_tokenizer
    library.encode_special_tokens = True
    some = ["Führer öne", "<|turn|>ß<|end|></s>", *STRINGS[::9], *SPECIAL_STRINGS[::5]]
    engine = Engine(tokenizer.source)
    answers = ask(letters / "tokenizer.json", [{"text": text, "plain": True} for text in some])
    for text, ids in zip(some, answers, strict=True):
        assert ids == library.encode(text, add_special_tokens=False).ids, repr(text)
        assert ids == engine.encode(text, markup=False)


def test_spans_in_python_and_native(letters):
    from exporter.chat.take_over import take_over_template

    tokenizer = read_tokenizer(letters)
    engine = Engine(tokenizer.source)
    chat = take_over_template(CHATML, tokenizer)
    contents = ["Führer", "ö", "n", "<|end|>", "<|turn", "|>é", "", "\n ß"]
    requests = [{"messages": [["user", text]], "generation_prompt": True} for text in contents]
    for text, ids in zip(contents, ask(letters / "tokenizer.json", requests, chat), strict=True):
        spans = [Span("<|turn|>user\n", True), Span(text, False), Span("<|end|><|turn|>assistant\n", True)]
        assert ids == engine.encode_spans(spans), text
        assert [id for id in ids if tokenizer.source.types[id] == PieceType.CONTROL] == [
            tokenizer.special_tokens[name] for name in ("<|turn|>", "<|end|>", "<|turn|>")
        ]
    torn = [Span("<|tu", True), Span("rn|>", False)]
    assert not {*engine.encode_spans(torn)} & {*tokenizer.special_tokens.values()}
    joined = [Span("ö", True), Span("n", False), Span("e", True)]
    assert engine.encode_spans(joined) == tokenizer.encode("öne")


def test_tokens_without_a_row_are_refused_in_prompts_only(letters, tmp_path, capsys):
    export(letters, "--max-seq-length", 64, "--output-pte", tmp_path / "m.pte")
    vocab_size = tiny.read_json(letters / "config.json")["vocab_size"]
    warning = capsys.readouterr().err
    assert "warning" in warning and f"table of {vocab_size}" in warning and "<|end|>" in warning
    for tokenizer in ((), ("-z", letters / "tokenizer.json")):
        fine = run(ET_RUN, tmp_path / "m.pte", *tokenizer, "-i", "Once", "--ignore-eos", "-n", 20, "-t", 9)
        assert fine.status == 0, fine.errors
        refused = run(ET_RUN, tmp_path / "m.pte", *tokenizer, "-i", "Once <|end|>")
        assert refused.status == 1 and "outside the model's vocabulary" in refused.error_line()


def test_fuzz_finds_nothing():
    script = ROOT / "scripts" / "fuzz_tokenizers.py"
    command = [sys.executable, script, "--pairs", "8000", "--texts", "200", "--seed", "18"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "8000 pairs" in done.stdout, done.stdout + done.stderr
