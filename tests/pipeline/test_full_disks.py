"""A disk that is full, while a library is compiled and linked and while artifacts are written."""

import errno
import os
import re
import tempfile
import zipfile
from pathlib import Path

import pytest
import tiny

from exporter.cli import main as cli
from exporter.lower import aoti_compile, pt2_package
from exporter.lower.targets import baseline, find_targets
from exporter.util.files import check_disk_full, disk_full_named, written_whole

FULL = Path("/dev/full")  # Linux: every write fails as on a full disk


def fake_compiler(folder: Path, words: str, when: str) -> Path:
    """A g++ that fails with `words` where its arguments hold `when`, and works otherwise."""
    path = folder / "g++"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *{when}*) printf "%s\\n" "{words}" >&2; exit 1;; esac\n'
        'exec /usr/bin/env -u CXX g++ "$@"\n'
    )
    path.chmod(0o755)
    return path


LINKER = (
    "/usr/bin/ld: final link failed: No space left on device\\ncollect2: error: ld returned 1 exit status"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_hf(folder, "mistral")
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A temporary folder, and an artifact in another one."""
    temporary, target = tmp_path / "tmp", tmp_path / "out" / "a.so"
    temporary.mkdir()
    target.parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary, target


@pytest.mark.parametrize("when", ["-c", "weights-"], ids=["compile", "link the weights"])
def test_an_export(when, folder, places, tmp_path, monkeypatch, capsys):
    temporary, target = places
    words = {
        "-c": f"cc1plus: fatal error: error writing to {temporary}/ccAbCd.s: No space left on device",
        "weights-": LINKER,
    }[when]
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, words, when)))
    assert cli.main([str(folder), "--output-dso", str(target), "--max-seq-length", "32"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    place = temporary if when == "-c" else target
    assert line.startswith(f"error: {place}") and "the disk is full" in line, line
    assert ("TMPDIR" in line) == (when == "-c")
    assert not list(target.parent.iterdir()) and not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (LINKER, "{out}: the disk is full"),
        ("ld: cannot write {out}: No space left on device", "{out}: the disk is full"),
        ("as: cannot write {tmp}/cc1.o: Disk quota exceeded", "{tmp}: the disk is full; set TMPDIR"),
    ],
)
def test_the_linker(words, named, places, tmp_path, monkeypatch):
    temporary, target = places
    words, named = (text.format(out=target, tmp=temporary) for text in (words, named))
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, words, "-shared")))
    (machine,) = find_targets(baseline())
    compiled = aoti_compile.Compiled(machine, aoti_compile.find_compiler(machine), ())
    with pytest.raises(OSError, match=re.escape(named)), disk_full_named(str(target)):
        aoti_compile.link(compiled, target)


def test_other_failures_of_the_linker_keep_their_words(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, "ld: error: undefined reference", "-shared")))
    (target,) = find_targets(baseline())
    compiled = aoti_compile.Compiled(target, aoti_compile.find_compiler(target), ())
    with pytest.raises(ValueError, match="undefined reference"):
        aoti_compile.link(compiled, tmp_path / "a.so")


def test_a_librarys_words():
    check_disk_full("no such thing")
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OSError, match=os.strerror(number) if number == errno.ENOSPC else ""):
            check_disk_full(f"InductorError: OSError: [Errno {number}] {os.strerror(number)}")


def test_a_pte(folder, tmp_path, monkeypatch, capsys):
    """Writing itself fails, as it does on a full disk: nothing stays, and the place is named."""
    target, before = tmp_path / "a.pte", Path.open

    def open_full(path, *arguments, **options):
        return before(FULL if path.name == target.name else path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_full)
    assert cli.main([str(folder), "--output-pte", str(target), "--max-seq-length", "32"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: {target}: the disk is full; free some room and export again"
    assert not list(tmp_path.iterdir())


def test_a_package(tmp_path, monkeypatch):
    target, archive = tmp_path / "a.pt2", zipfile.ZipFile
    monkeypatch.setattr(
        pt2_package.zipfile, "ZipFile",
        lambda path, *rest: archive(FULL.open("wb", buffering=0), *rest),
    )  # fmt: skip
    with pytest.raises(OSError, match=f"{re.escape(str(target))}: the disk is full"):
        with written_whole(target) as part, pt2_package.Pt2Writer(part) as writer:
            writer.weights(1 << 20, [bytes(1 << 20)])
    assert not list(tmp_path.iterdir())
