"""The decoder's logits against transformers', in float32, for every variation and file format."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from family import with_attention
from torch import Tensor

from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.model.config import ModelConfig

MAX_ERROR = 1e-4
LENGTHS = {"mistral_window": 40}
DEFAULT_LENGTH = 100  # longer than the original context of the scaled variations


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost more than they give on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=list(tiny.VARIATIONS))
def variation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The variation's name, its Hugging Face folder and transformers' model."""
    folder = tmp_path_factory.mktemp(request.param.replace(".", "_"))
    return request.param, folder, tiny.make_hf(folder, request.param)


def run_chunks(checkpoint: Checkpoint, tokens: Tensor, chunk: int) -> Tensor:
    """Logits [T, V] of all positions, the prompt taken `chunk` tokens at a time."""
    length = tokens.shape[1]
    model = load_model(checkpoint, torch.float32, length)
    session = model.new_session()
    logits = []
    with torch.no_grad():
        for start in range(0, length, chunk):
            part = tokens[:, start : start + chunk]
            rows = torch.arange(part.shape[1])
            logits.append(session.read(part, start, rows))
    return torch.cat(logits)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def expected_logits(model, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens).logits[0].float()


@pytest.mark.parametrize("chunk", [1000, 32, 7, 1])
def test_hugging_face(variation, chunk: int):
    name, folder, model = variation
    tokens = tiny.prompt(LENGTHS.get(name, DEFAULT_LENGTH))
    actual = run_chunks(open_checkpoint(str(folder)), tokens, chunk)
    assert relative_error(actual, expected_logits(model, tokens)) < MAX_ERROR


def test_gguf(variation, tmp_path: Path):
    name, _, model = variation
    tiny.write_gguf(tmp_path / "model.gguf", model)
    tokens = tiny.prompt(LENGTHS.get(name, DEFAULT_LENGTH))
    actual = run_chunks(open_checkpoint(str(tmp_path / "model.gguf")), tokens, 1000)
    assert relative_error(actual, expected_logits(model, tokens)) < MAX_ERROR


# Those that Meta's format has fields for.
META = ("llama2", "llama3", "llama3.1", "codellama", "smollm2", "head_dim", "mistral_window")


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("name", META)
def test_meta(tmp_path: Path, name: str, n_shards: int):
    model = tiny.make_hf(tmp_path / "hf", name)
    n_shards = min(n_shards, model.config.num_key_value_heads)
    tiny.write_meta(tmp_path / "meta", model, n_shards)
    tokens = tiny.prompt(LENGTHS.get(name, DEFAULT_LENGTH))
    actual = run_chunks(open_checkpoint(str(tmp_path / "meta")), tokens, 1000)
    assert relative_error(actual, expected_logits(model, tokens)) < MAX_ERROR


def test_llama2c(tmp_path: Path):
    model = tiny.make_hf(tmp_path, "llama2")
    tiny.write_llama2c(tmp_path / "stories.pt", model)
    tokens = tiny.prompt(DEFAULT_LENGTH)
    actual = run_chunks(open_checkpoint(str(tmp_path / "stories.pt")), tokens, 1000)
    assert relative_error(actual, expected_logits(model, tokens)) < MAX_ERROR


def with_rope(config: ModelConfig, **change) -> ModelConfig:
    rope = replace(config.layers[0].attention.rope, **change)
    return with_attention(config, rope=rope)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("llama3.1", partial(with_rope, scaling=None)),
        ("llama3.2", partial(with_rope, scaling=None)),
        ("linear_rope", partial(with_rope, scaling=None)),
        ("mistral_window", partial(with_attention, window=None)),
        ("mistral_window", partial(with_attention, window=9)),
        ("llama2", partial(with_rope, theta=2e4)),
        ("llama2", partial(replace, norm_eps=1e-2)),
    ],
)
def test_the_comparison_can_fail(tmp_path: Path, name: str, changed):
    """Each feature matters to these prompts: a model without it is far from transformers'."""
    model = tiny.make_hf(tmp_path, name)
    tokens = tiny.prompt(LENGTHS.get(name, DEFAULT_LENGTH))
    checkpoint = open_checkpoint(str(tmp_path))
    other = replace(checkpoint, config=changed(checkpoint.config))
    actual = run_chunks(other, tokens, 1000)
    assert relative_error(actual, expected_logits(model, tokens)) > 10 * MAX_ERROR
