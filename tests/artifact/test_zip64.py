"""Archives with zip64 fields, as files beyond 4 GB have them."""

import subprocess
import zipfile
from dataclasses import replace

import pytest
import tiny
from native import AOTI_RUN, export

from exporter.artifact.reader import read_artifact
from exporter.artifact.stored_zip import add_stored
from exporter.lower.pt2_package import ALIGNMENT

WEIGHTS = "model/data/aotinductor/model/model_weights.blob"


@pytest.fixture
def low_limit(monkeypatch):
    """Let files of more than 1,000 bytes, or behind them, count as large."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)


def data_start(path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + 30 + sum(lengths)


@pytest.mark.parametrize("size", [10, 500, 501, 1000, 1001, 5000])
def test_files_lie_at_the_alignment(size, low_limit, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("one", "two", "three"):
            add_stored(archive, name, size, [name[:1].encode() * size], 64)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            assert archive.read(info) == info.filename[:1].encode() * size
            assert data_start(path, info) % 64 == 0


def test_a_package(tmp_path, monkeypatch):
    """The reader and the runner find in it what they find in one without such fields."""
    tiny.make_hf(tmp_path / "m", "llama3")
    plain, large = tmp_path / "plain.pt2", tmp_path / "large.pt2"
    options = ("--quantize", "q4", "--max-seq-length", 64, "--output-aoti-package")
    export(tmp_path / "m", *options, plain)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    export(tmp_path / "m", *options, large)
    monkeypatch.undo()
    assert b"PK\x06\x06" in large.read_bytes() and b"PK\x06\x06" not in plain.read_bytes()
    with zipfile.ZipFile(large) as archive:
        assert data_start(large, archive.getinfo(WEIGHTS)) % ALIGNMENT == 0
    expected, found = read_artifact(plain), read_artifact(large)
    assert found.metadata == expected.metadata and found.weights
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        assert ours == replace(theirs, offset=ours.offset) and ours.data == theirs.data
    done = subprocess.run([AOTI_RUN, large, "--self-test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
