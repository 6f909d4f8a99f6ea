"""`self-test`: the verb runs the artifact's own runner, and its exit status is the runner's."""

import json

import pytest
import tiny
from changed_package import with_metadata
from native import aoti_metadata, export

from exporter.cli import main as cli
from exporter.util import native_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("self-test")
    tiny.make_hf(folder / "m", "llama3.1")
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--output-pte", folder / "m.pte",
           "--output-aoti-package", folder / "m.pt2")  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["m.pte", "m.pt2"])
def test_the_right_runner_says_what_it_compared(folder, capfd, name):
    assert cli.main(["self-test", str(folder / name), "--threads", "1", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["passed"] and said["positions"] > 0 and said["threads"] == 1


def test_a_failure_is_the_exit_status(folder, tmp_path, capfd):
    stored = json.loads(aoti_metadata(folder / "m.pt2")["self_test"])
    stored["logits"][0]["crc32"] ^= 1
    with_metadata(folder / "m.pt2", tmp_path / "wrong.pt2", self_test=stored)
    assert cli.main(["self-test", str(tmp_path / "wrong.pt2")]) == 1
    assert "logits of prompt 1" in capfd.readouterr().out


def test_what_is_not_there(folder, tmp_path, capsys, monkeypatch):
    assert cli.main(["self-test", str(tmp_path / "none.pte")]) == 1
    assert "none.pte: no such file" in capsys.readouterr().err
    monkeypatch.setattr(native_files, "BUILD", "not-built")
    assert cli.main(["self-test", str(folder / "m.pte")]) == 1
    assert "not-built/et_run is not there; build it with scripts/build_native.sh" in capsys.readouterr().err
