"""Fixtures that several files share."""

import os
import shlex
from pathlib import Path

import pytest
import tiny
from native import ROOT, export
from readme import commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The checkpoint of a tiny SmolLM2, tied; a file that needs another has a `folder` of its own."""
    folder = tmp_path_factory.mktemp("checkpoint") / "m"
    tiny.make_hf(folder, "smollm2")
    return folder


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory) -> tuple[Path, Path, Path]:
    """SmolLM2 as .pte, .pt2 and .so, made by the README's own command in one call."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = next(line for line in commands() if "--output-dso" in line)
    before = os.getcwd()
    os.chdir(folder)
    try:
        export(*shlex.split(command.removeprefix("python -m exporter")))
    finally:
        os.chdir(before)
    (folder / "smollm2.pte").symlink_to("a.pte")  # exported alike: only the name differs
    (folder / "cmake-out").symlink_to(ROOT / "cmake-out")
    return folder / "a.pte", folder / "a.pt2", folder / "a.so"
