"""The rotated copy of a checkpoint is the same function; a copy that is not is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from exporter.chat.take_over import take_over_template
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.model.matrices import parameter_shapes
from exporter.tokenizer.end_tokens import token_sources
from exporter.tokenizer.tokenizer import read_tokenizer
from scripts import rotate_checkpoint
from scripts.bench import rotation
from scripts.bench.command_line import exit_status
from scripts.bench.rotation import difference, logits, random_orthogonal

LENGTH = 100


def rotate(*arguments: object) -> int:
    return exit_status(rotate_checkpoint.main, [str(word) for word in arguments])


def random_logits(path: Path) -> torch.Tensor:
    """[LENGTH, vocabulary], of a prompt that the script does not check with."""
    return logits(open_checkpoint(str(path)), tiny.prompt(LENGTH, seed=7)[0].tolist())


def shuffle_norms(folder: Path) -> None:
    """Norm weights far from equal and of both signs: what is folded then shows."""
    state = load_file(folder / "model.safetensors")
    for name, tensor in state.items():
        if "norm" in name:
            state[name] = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "variation", ["smollm2", "llama3.2", "attention_bias", "mlp_bias", "head_dim", "mistral_window"]
)
def test_same_function_on_another_basis(variation: str, tmp_path: Path, capsys):
    source, copy, file = tmp_path / "source", tmp_path / "copy", tmp_path / "copy.gguf"
    tiny.make_hf(source, variation)
    shuffle_norms(source)
    with_gguf = () if variation == "attention_bias" else ("--gguf", file)
    assert rotate(source, copy, *with_gguf) == 0
    expected = random_logits(source)
    assert expected.std() > 0.1
    for path in (copy, file)[: 1 + bool(with_gguf)]:
        found = difference(expected, random_logits(path))
        assert found.largest < 1e-3 * expected.abs().max() and found.kl < 1e-8
    before, after = (open_checkpoint(str(path)) for path in (source, copy))
    assert not after.config.tied_embeddings
    shapes = [parameter_shapes(checkpoint.config) for checkpoint in (before, after)]
    counts = [sum(map(math.prod, shape.values())) for shape in shapes]
    assert f"parameters: {counts[0]} in the original, {counts[1]} in the copy" in (
        capsys.readouterr().out
    )
    old, new = (checkpoint.state_dict(torch.float32) for checkpoint in (before, after))
    for name, tensor in new.items():
        if "norm" in name:
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif name in old and not name.endswith((".wq.bias", ".wk.bias", ".wv.bias", ".w1.bias",
                                                ".w3.bias")):  # fmt: skip
            assert (tensor - old[name]).abs().max() > 1e-3, name


def test_a_gguf_source_keeps_tokenizer_chat_and_stop_tokens(tmp_path: Path):
    """The folder's files are made from the fields of the GGUF, the GGUF's are copied."""
    source, copy, file = tmp_path / "source.gguf", tmp_path / "copy", tmp_path / "copy.gguf"
    model = tiny.make_hf(tmp_path / "hf", "smollm2")
    tiny.write_gguf(source, model)
    assert rotate(source, copy, "--gguf", file) == 0
    assert difference(random_logits(source), random_logits(copy)).kl < 1e-8
    original = read_tokenizer(source)
    for path in (copy, file):
        checkpoint = open_checkpoint(str(path))
        tokenizer = read_tokenizer(checkpoint.tokenizer_path)
        assert tokenizer.table == original.table
        generation = dict(checkpoint.generation)
        stops = [token_sources(read, fields, {}, original.n_pieces).stop_ids
                 for read, fields in ((tokenizer, generation), (original, {}))]  # fmt: skip
        assert stops[0] == stops[1]
        assert take_over_template(tokenizer.chat_template, tokenizer) == (
            take_over_template(original.chat_template, original)
        )


def test_the_seed_decides(tmp_path: Path):
    tiny.make_hf(tmp_path / "source", "smollm2")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert rotate(tmp_path / "source", tmp_path / name, "--seed", seed) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_orthogonal():
    q = random_orthogonal(64, seed=3)
    assert q.dtype == torch.float64
    assert (q @ q.T - torch.eye(64, dtype=torch.float64)).abs().max() < 1e-13
    assert not torch.equal(q, random_orthogonal(64, seed=4))


def test_another_function_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch, capsys):
    tiny.make_hf(tmp_path / "source", "smollm2")
    monkeypatch.setattr(
        rotation, "random_orthogonal", lambda size, seed: random_orthogonal(size, seed).triu()
    )
    out, file = tmp_path / "out", tmp_path / "out.gguf"
    assert rotate(tmp_path / "source", out, "--gguf", file) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {out}: mean KL to the original is ")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["source", "out", "--gguf", "out.bin"], 2, "does not end in .gguf"),
        (["source", "source"], 1, "source exists"),
        (["source", "absent/out"], 1, "absent: no such folder"),
        (["source", "out", "--gguf", "absent/out.gguf"], 1, "absent: no such folder"),
        (["nowhere", "out"], 1, "nowhere"),
        (["bare", "out"], 1, "no tokenizer beside it"),
        (["short", "out"], 1, "the check needs 64"),
    ],
)
def test_refusals_are_one_line(arguments, status, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.make_hf(Path("source"), "smollm2")
    shutil.copytree("source", "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree("source", "short")
    config = tiny.read_json(Path("short/config.json"))
    tiny.write_json(Path("short/config.json"), config | {"max_position_embeddings": 32})
    capsys.readouterr()
    assert rotate(*arguments) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and named in errors[0]
    assert not Path("out").exists() and not Path("out.gguf").exists()
