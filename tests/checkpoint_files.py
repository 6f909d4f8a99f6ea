"""Checkpoints that tests change, and what they hold against each other."""

from pathlib import Path

import gguf
import pytest
import safetensors.torch
import torch

from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def assert_same_weights(actual: Checkpoint, expected: Checkpoint) -> None:
    actual_state = actual.state_dict(torch.float32)
    expected_state = expected.state_dict(torch.float32)
    assert list(actual_state) == list(expected_state)
    for name, tensor in actual_state.items():
        assert torch.equal(tensor, expected_state[name]), name


def assert_refused(path: Path, *named: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        open_checkpoint(str(path)).state_dict(torch.float32)
    message = str(caught.value)
    assert "\n" not in message
    for text in named:
        assert text in message


# Formats


def edit_tensors(folder: Path, edit) -> None:
    path = folder / "model.safetensors"
    tensors = {name: t.clone() for name, t in safetensors.torch.load_file(path).items()}
    edit(tensors)
    safetensors.torch.save_file(tensors, path)
