"""The comparison of families: their configs and checkpoints are what the exporter reads, and a run of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.cli import main as cli
from exporter.families.sources.registry import all_families
from exporter.model.config import FeedForwardSpec
from scripts import bench_families
from scripts.bench.command_line import exit_status
from scripts.bench.family_folder import describe, write_family_folder
from scripts.bench.family_shapes import FAMILIES, MIXTURES, REFERENCE, SHAPES, config_json


@pytest.mark.parametrize("shape", SHAPES)
def test_all_families_have_the_shape(shape):
    wanted = SHAPES[shape]
    for name in FAMILIES:
        config = describe(config_json(name, wanted)).config
        assert (config.dim, config.n_layers, config.vocab_size) == (
            wanted.dim, wanted.n_layers, wanted.vocab_size
        ), name  # fmt: skip
        assert config.tied_embeddings, name
        for layer in config.layers:
            attention = layer.attention
            found = attention.n_heads, attention.n_kv_heads, attention.head_dim, _products(layer.feed_forward)
            assert found == (wanted.n_heads, wanted.n_kv_heads, wanted.head_dim, wanted.hidden_dim), name


def _products(spec: FeedForwardSpec) -> int:
    """Of all experts of a token together."""
    return spec.hidden_dim * (1 if spec.experts is None else spec.experts.chosen)


def test_every_family_is_measured():
    """By its Hugging Face form, but for mixtures of experts, of which one stands for all."""
    measured = {describe(config_json(name, SHAPES["tiny"])).family.name for name in FAMILIES}
    left_out = {family.name for family in all_families()} - measured
    assert left_out == {"mixtral", "qwen3moe", "gptoss"}
    assert set(MIXTURES) <= FAMILIES.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_written_folder_is_that_model(name, tmp_path: Path):
    """Whatever the family stores as one tensor, or of its config as tensors."""
    fields = config_json(name, SHAPES["tiny"])
    write_family_folder(tmp_path / "m", fields, lambda line: None)
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    assert checkpoint.config.family == describe(fields).family.name
    assert checkpoint.config.dim == SHAPES["tiny"].dim
    model = load_model(checkpoint, torch.float32, 16)
    with torch.no_grad():
        logits = model.new_session().read(torch.arange(8)[None], 0, torch.arange(8))
    assert logits.isfinite().all() and logits.std() > 0


def test_a_run(tmp_path: Path, monkeypatch, capsys):
    exports = []

    def export(name: str, command: list[str], shown: bool) -> None:
        exports.append(Path(command[3]))
        assert cli.main(command[3:]) == 0

    monkeypatch.setattr(bench_families.work, "call", export)
    out, own = tmp_path / "figures.md", tmp_path / "work" / "qwen3" / "notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    words = ["--families", "qwen3", "--shape", "tiny", "--rounds", "2", "--threads", "1",
             "--work", str(tmp_path / "work"), "--out", str(out)]  # fmt: skip
    assert exit_status(bench_families.main, words) == 0
    assert [path.name for path in exports] == [REFERENCE, "qwen3"]
    # A checkpoint and an artifact of each are gone, and what was there is not.
    assert list((tmp_path / "work").iterdir()) == [own.parent] and own.read_text() == "mine"
    text = out.read_text()
    assert text.strip() in capsys.readouterr().out
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| qwen3")]
    assert [row[1] for row in rows] == ["pp512", "tg128"]
    assert all(row[2] == row[4] for row in rows)  # as many bytes as Llama's: its norms are no matrices
