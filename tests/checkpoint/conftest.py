"""A tiny Llama 3, and its folder, for tests that change a copy."""

import shutil
from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="module")
def model_and_folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("llama3")
    return tiny.make_hf(folder, "llama3"), folder


@pytest.fixture
def model(model_and_folder):
    return model_and_folder[0]


@pytest.fixture
def whole(model_and_folder) -> Path:
    return model_and_folder[1]


@pytest.fixture
def folder(whole, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))
