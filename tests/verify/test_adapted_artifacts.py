"""An artifact says which adapters were merged into it, and is compared with the model that has them."""

import json

import peft_adapter
import pytest
import tiny
from native import export

from exporter.artifact.reader import read_artifact
from exporter.cli import main as cli


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A checkpoint, an adapter, and an artifact of both."""
    folder = tmp_path_factory.mktemp("adapted")
    model = tiny.make_hf(folder / "base", "smollm2")
    peft_adapter.write(folder / "lora", peft_adapter.pairs(model, 1))
    adapter = ("--adapter", f"{folder}/lora=0.05")
    export(folder / "base", *adapter, "--output-pte", folder / "m.pte")
    return folder


def called(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_artifact_names_its_adapters(places, capsys):
    metadata = read_artifact(places / "m.pte").metadata
    (entry,) = json.loads(metadata["adapters"])
    assert (entry["name"], entry["scale"], len(entry["digest"])) == ("lora", 0.05, 64)
    said = called(capsys, "inspect", places / "m.pte")[1]
    assert f"adapter   lora times 0.05 ({entry['digest'][:16]})" in said


def test_verify_takes_the_same_adapters(places, capsys):
    words = ("verify", places / "m.pte", "--checkpoint", places / "base")
    status, out, _ = called(capsys, *words, "--adapter", f"{places}/lora=0.05")
    assert status == 0 and "pass  adapters" in out and "pass  packed weights" in out
    status, out, _ = called(capsys, *words, "--adapter", f"{places}/lora")
    assert status == 1 and "lora times 0.05" in out.splitlines()[-1]
    status, _, errors = called(capsys, *words)
    assert status == 1 and "was exported with adapters (lora times 0.05" in errors and "--adapter" in errors


def test_eval_and_generate_of_a_model_merge_them(places, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("".join(tiny.TEXT))
    words = ("eval", places / "base", "--text", tmp_path / "t.txt", "--window", 32, "--windows", 2, "--json",
             "--adapter", places / "lora")  # fmt: skip
    status, out, _ = called(capsys, *words, "--reference", places / "base")
    figures = json.loads(out)
    assert status == 0 and abs(figures["reference"]["kl_mean"]) < 1e-5
    status, out, _ = called(capsys, *words[:-2])
    assert status == 0 and json.loads(out)["perplexity"] != figures["perplexity"]
    words = ("generate", places / "base", "--prompt", "Once", "--temperature", 0, "--max-new-tokens", 12)
    said = [called(capsys, *words, *more) for more in ((), ("--adapter", places / "lora"))]
    assert said[0][0] == said[1][0] == 0 and said[0][1] != said[1][1]


def test_an_artifact_has_its_adapters_already(places, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("".join(tiny.TEXT))
    words = ("generate", places / "m.pte", "--prompt", "x", "--adapter", places / "lora")
    status, _, errors = called(capsys, *words)
    assert status == 2 and "--adapter is for a MODEL" in errors
    words = ("eval", places / "m.pte", "--text", tmp_path / "t.txt", "--window", 32, "--windows", 2, "--json")
    status, out, _ = called(
        capsys, *words, "--reference", places / "base", "--adapter", f"{places}/lora=0.05"
    )
    assert status == 0 and json.loads(out)["reference"]["kl_mean"] < 0.05
