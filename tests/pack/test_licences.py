"""Licences: a bundle has the text of each part that its programs and libraries hold, and of no other."""

from pathlib import Path

import pytest
from native import ROOT

from exporter.pack.elf_needs import is_elf
from exporter.pack.runner_files import install_runner

IN_PROGRAMS = {"native-llm", "nlohmann-json", "pcre2", "libsodium", "pytorch"}
# The beginnings of symbols and types that tell a part; what is of headers alone comes with another.
MARKS = {
    b"N10executorch": {"executorch"},
    b"N11flatbuffers": {"flatbuffers"},
    b"cpuinfo_initialize": {"cpuinfo"},
    b"pthreadpool_create": {"pthreadpool", "fxdiv"},
    b"xnn_initialize": {"xnnpack", "fp16"},
    b"kai_run_": {"kleidiai"},
    b"N5Eigen": {"eigen"},
    b"N9pocketfft": {"pocketfft"},
}
LICENCES = ROOT / "runner" / "licenses"


def parts_in(folder: Path) -> set[str]:
    """Return the parts that the programs and libraries of a folder hold, by what they name."""
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and is_elf(path))
    return {part for mark, parts in MARKS.items() if mark in data for part in parts}


@pytest.mark.parametrize(
    ("program", "stock", "some"),
    [("et_run", False, "flatbuffers"), ("et_run", True, "xnnpack"), ("aoti_run", False, "pytorch")],
)
def test_a_bundle_has_a_text_of_each_part(tmp_path, program, stock, some):
    install_runner("release", program, stock, tmp_path)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "licenses").iterdir()}
    assert texts.keys() == IN_PROGRAMS | parts_in(tmp_path) and some in texts
    for name, text in texts.items():
        assert len(text) > 500 and "opyright" in text, name
        assert any(word in text for word in ("Redistribution", "Permission", "License")), name
    assert "Niels Lohmann" in texts["nlohmann-json"]


def test_every_text_is_in_the_table():
    names = {path.name for path in LICENCES.glob("*.txt")}
    table = (LICENCES / "README.md").read_text()
    assert {word for word in table.split("`") if word.endswith(".txt") and "/" not in word} == names


def test_what_the_libraries_for_64_bit_arm_hold():
    folders = sorted((ROOT / ".deps").glob("executorch-*-aarch64/executorch/lib"))
    if not folders:
        pytest.skip("ExecuTorch for aarch64 was not fetched: cmake --preset aarch64")
    assert parts_in(folders[-1]) == set().union(*MARKS.values())  # all of them are installed with these
