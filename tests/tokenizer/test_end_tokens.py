"""What begins a text and ends a generation: who names it, what is odd about it, where it is said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tokenizer_files
from native import export, generate
from tokenizer_files import SMOLLM2
from transformers import PreTrainedTokenizerFast

from exporter.artifact.reader import read_artifact
from exporter.cli import main as cli
from exporter.tokenizer.end_tokens import completed, token_sources
from exporter.tokenizer.table import PieceType
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer


def with_special(*names: str, config: dict | None = None, folder: Path) -> Tokenizer:
    """A byte-level tokenizer with control tokens of these names at its end."""
    root = tokenizer_files.smollm2_json()
    root["added_tokens"] = [t for t in root["added_tokens"] if t["content"] in names]
    for name in names:
        if name not in {t["content"] for t in root["added_tokens"]}:
            tokenizer_files._add_token(root, name)
    (folder / "tokenizer.json").write_text(json.dumps(root))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return read_tokenizer(folder)


def named(tokenizer: Tokenizer, ids) -> set[str]:
    return {tokenizer.token_name(id) for id in ids}


def test_files_in_order(tmp_path):
    tokenizer = with_special("<|a|>", "<|b|>", "<|c|>", config={"eos_token": "<|c|>"}, folder=tmp_path)
    a, b, c = (tokenizer.special_tokens[name] for name in ("<|a|>", "<|b|>", "<|c|>"))
    size = tokenizer.n_pieces
    cases = (
        ({"eos_token_id": [a, b]}, {"eos_token_id": a}, {a, b, c}),
        ({}, {"eos_token_id": [a, b]}, {a, b, c}),
        ({}, {"eos_token_id": a}, {a, c}),
        ({"eos_token_id": 7}, {"eos_token_id": a}, {7, c}),
        ({}, {}, {c}),
    )
    for generation, config, stops in cases:
        found = token_sources(tokenizer, generation, config, size)
        assert set(found.stop_ids) == stops and list(found.stop_ids) == sorted(stops)
        assert len(found.warnings) == (7 in stops) and found.stops[c] == ("tokenizer: eos_token",)
        file = "generation_config.json" if generation else "config.json"
        for id in stops - {c}:
            assert found.stops[id] == (f"{file}: eos_token_id",)


def test_begin(tmp_path):
    tokenizer = with_special("<|a|>", "<|b|>", folder=tmp_path)
    a, b = (tokenizer.special_tokens[name] for name in ("<|a|>", "<|b|>"))
    size = tokenizer.n_pieces
    assert tokenizer.bos_id is None and tokenizer.eos_id is None
    found = token_sources(tokenizer, {}, {"bos_token_id": a, "eos_token_id": b}, size)
    assert (found.bos_id, found.bos) == (a, ("config.json: bos_token_id",))
    full = completed(tokenizer, found)
    assert (full.bos_id, full.eos_id, full.add_bos) == (a, b, False)
    assert token_sources(tokenizer, {"bos_token_id": b}, {"bos_token_id": a}, size).bos_id == b
    own = with_special("<|a|>", "<|b|>", config={"bos_token": "<|b|>"}, folder=tmp_path)
    found = token_sources(own, {"bos_token_id": a}, {}, size)
    assert (found.bos_id, found.bos) == (b, ("tokenizer: bos_token",))


@pytest.mark.parametrize("names, ends", [
    (("<|im_start|>", "<|im_end|>"), {"<|im_end|>"}),
    (("<|user|>", "<|end|>", "<|assistant|>"), {"<|end|>"}),
    (("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"), {"<|return|>", "<|call|>"}),
    (("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), {"<eos>", "<end_of_turn>"}),
    (("<|start_header_id|>", "<|eot_id|>", "<|eom_id|>"), {"<|eot_id|>", "<|eom_id|>"}),
    (("<|end_of_role|>", "<|end_of_text|>", "<|end_header_id|>"), {"<|end_of_text|>"}),
])  # fmt: skip
def test_names_of_families(tmp_path, names, ends):
    tokenizer = with_special(*names, folder=tmp_path)
    found = token_sources(tokenizer, {}, {}, tokenizer.n_pieces)
    assert named(tokenizer, found.stop_ids) == ends and not found.warnings
    assert all(said[0].startswith("name: ") for said in found.stops.values())


def test_gguf_keys():
    tokenizer = read_tokenizer(SMOLLM2)
    key = "tokenizer.ggml.{}_token_id".format
    more = replace(tokenizer, declared_ends={key("eos"): 2, key("eot"): 7, key("eom"): 8})
    found = token_sources(more, {}, {}, tokenizer.n_pieces)
    assert found.stop_ids == (0, 2, 7, 8) and found.stops[7] == (f"GGUF: {key('eot')}",)
    assert tokenizer.declared_ends == {key("eos"): 2}
    assert tokenizer.named_tokens["eos_token"] == "<|im_end|>"


def test_odd_ids_are_said(tmp_path):
    tokenizer = with_special("<|a|>", folder=tmp_path)
    a, n = tokenizer.special_tokens["<|a|>"], tokenizer.n_pieces
    padded = token_sources(tokenizer, {"eos_token_id": [a, n + 3]}, {}, n + 10)
    assert padded.stop_ids == (a, n + 3)
    assert "rows that pad" in padded.warnings[0] and str(n + 3) in padded.warnings[0]
    assert padded.to_dict(tokenizer)["stops"][1]["text"] is None
    outside = token_sources(tokenizer, {}, {"eos_token_id": [a, n + 10, -1]}, n + 10)
    assert outside.stop_ids == (a,) and len(outside.warnings) == 2
    assert f"outside the model's vocabulary of {n + 10}" in outside.warnings[0]
    # A class's default id, which means nothing in this vocabulary.
    text = token_sources(tokenizer, {}, {"eos_token_id": 2, "bos_token_id": 1}, n)
    assert text.stop_ids == () and text.bos_id is None
    assert any("a piece of text" in line for line in text.warnings)
    assert any("no token ends a generation" in line for line in text.warnings)
    kept = token_sources(tokenizer, {"eos_token_id": 2, "bos_token_id": 1}, {}, n)
    assert kept.stop_ids == (2,) and kept.bos_id is None and "ends there" in kept.warnings[0]
    for wrong in ("2", 2.0, True, [[a]], {"id": 2}):
        with pytest.raises(ValueError, match="generation_config.json: eos_token_id .* correct or remove"):
            token_sources(tokenizer, {"eos_token_id": wrong}, {}, n)


def test_added_tokens_that_are_pieces_too_end_a_generation(tmp_path):
    """They are in the vocabulary, and not special: no file calls them anything but text."""
    root = tokenizer_files.smollm2_json()
    texts = [entry["content"] for entry in root["added_tokens"] if entry["content"] in root["model"]["vocab"]]
    root["added_tokens"] = [
        entry | {"special": False} for entry in root["added_tokens"] if entry["content"] in texts
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(root))
    tokenizer = read_tokenizer(tmp_path)
    library = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ids = library.convert_tokens_to_ids(texts)
    types = {tokenizer.source.types[id] for id in ids}
    assert len(ids) == 4 and types == {PieceType.NORMAL} and not tokenizer.special_tokens
    for files in (({}, {"eos_token_id": ids[1:], "bos_token_id": ids[0]}),
                  ({"eos_token_id": ids[1:], "bos_token_id": ids[0]}, {})):  # fmt: skip
        found = token_sources(tokenizer, *files, tokenizer.n_pieces)
        assert found.stop_ids == tuple(sorted(ids[1:])) and found.bos_id == ids[0] and not found.warnings


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model whose second end is named by config.json alone, and its artifact."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.make_hf(folder, "smollm2")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    special = [entry["id"] for entry in tokens if entry["special"]]
    config |= {"eos_token_id": special[:2]}
    (folder / "config.json").write_text(json.dumps(config))
    pte = tmp_path_factory.mktemp("artifact") / "m.pte"
    export(folder, "--output-pte", pte, "--max-seq-length", 64)
    return folder, pte


def test_an_artifact_says_what_ends_it(exported, capsys):
    folder, pte = exported
    config = json.loads((folder / "config.json").read_text())
    metadata = read_artifact(pte).metadata
    assert set(config["eos_token_id"]) <= set(json.loads(metadata["stop_ids"]))
    capsys.readouterr()
    assert cli.main(["inspect", str(pte)]) == 0
    text = capsys.readouterr().out
    for id in config["eos_token_id"]:
        assert f"  end {id} " in text and "config.json: eos_token_id" in text
    assert cli.main(["inspect", str(pte), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["token_sources"]
    assert [entry["id"] for entry in said["stops"]] == json.loads(metadata["stop_ids"])
    assert cli.main(["verify", str(pte), "--checkpoint", str(folder)]) == 0
    assert "pass  sources of these tokens" in capsys.readouterr().out


def test_other_sources_are_told(exported, tmp_path, capsys):
    folder, pte = exported
    generation = folder / "generation_config.json"
    ends = json.loads((folder / "config.json").read_text())["eos_token_id"]
    generation.write_text(json.dumps({"eos_token_id": ends}))
    try:
        capsys.readouterr()
        assert cli.main(["verify", str(pte), "--checkpoint", str(folder)]) == 1
        assert "sources of these tokens: stops" in capsys.readouterr().out
    finally:
        generation.unlink()


def test_a_token_of_a_padded_row_ends_a_generation(tmp_path, capsys, monkeypatch):
    """The id has no text, but a model may have learned to write it."""
    rows = tiny.VOCAB
    monkeypatch.setattr(tiny, "VOCAB", rows - 20)  # of the tokenizer alone
    tiny.make_hf(tmp_path / "m", "smollm2")
    generation = {"eos_token_id": rows - 1}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(generation))
    pte = tmp_path / "m.pte"
    export(tmp_path / "m", "--output-pte", pte, "--max-seq-length", 64)
    assert "rows that pad" in capsys.readouterr().err
    assert rows - 1 in json.loads(read_artifact(pte).metadata["stop_ids"])
    generate(pte, "-n", 4, "-t", 0, "-i", "a")
