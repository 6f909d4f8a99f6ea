"""A `.pte` that is written without its constants in memory: the file that ExecuTorch alone would write."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from native import export

from exporter.artifact.reader import read_artifact
from exporter.lower import pte_constants
from exporter.lower.pte_constants import MOST_VALUES, take_constants


def test_the_same_bytes_as_executorchs(tmp_path, monkeypatch):
    tiny.make_hf(tmp_path / "m", "llama3.2")
    ours, executorchs = tmp_path / "ours.pte", tmp_path / "theirs.pte"
    options = ("--quantize", "q4", "--max-seq-length", 64, "--output-pte")
    export(tmp_path / "m", *options, ours)
    monkeypatch.setattr(pte_constants, "take_constants", lambda program: {})
    export(tmp_path / "m", *options, executorchs)
    assert ours.read_bytes() == executorchs.read_bytes()


def test_what_is_taken():
    """Equal constants have equal hashes, so that one is stored; what has other dimensions stays."""
    state = {
        "a": torch.arange(100.0),
        "b": torch.arange(100.0),
        "c": torch.arange(100).to(torch.uint8),
        "matrix": torch.ones(3, 3),
        "empty": torch.ones(0),
    }
    program = SimpleNamespace(state_dict=dict(state))
    taken = take_constants(program)
    assert {name: tensor is state[name] for name, tensor in taken.items()} == dict.fromkeys("abc", True)
    left = program.state_dict
    assert left["matrix"] is state["matrix"] and left["empty"] is state["empty"]
    assert torch.equal(left["a"].view(torch.uint8), left["b"].view(torch.uint8))
    assert {name: (left[name].dtype, left[name].nbytes) for name in "ac"} == {
        "a": (torch.float32, 32), "c": (torch.uint8, 32),
    }  # fmt: skip
    assert not torch.equal(left["a"].view(torch.uint8), left["c"])


def test_a_constant_longer_than_the_format_can_say():
    long = torch.empty(MOST_VALUES + 1, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match=r"output\.weight has 2147483648 values of type uint8.*package"):
        take_constants(SimpleNamespace(state_dict={"output.weight": long}))


def test_constants_beyond_4_gib(tmp_path):
    """A reader finds what lies behind a hole: 64 bits of the header count."""
    tiny.make_hf(tmp_path / "m", "llama3")
    path, sparse = tmp_path / "m.pte", tmp_path / "sparse.pte"
    export(tmp_path / "m", "--quantize", "q4", "--max-seq-length", 64, "--output-pte", path)
    content, far = path.read_bytes(), 5 << 30
    program, start = (int.from_bytes(content[at : at + 8], "little") for at in (16, 24))
    with sparse.open("wb") as file:
        file.write(content[:24] + far.to_bytes(8, "little") + content[32:program])
        file.seek(far)
        file.write(content[start:])
    near, beyond = read_artifact(path), read_artifact(sparse)
    assert beyond.size > far and near.weights
    for expected, found in zip(near.weights, beyond.weights, strict=True):
        assert found == replace(expected, offset=expected.offset - start + far)
        assert found.data == expected.data
