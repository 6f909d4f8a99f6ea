"""A disk that is full, while a library is compiled and linked and while artifacts are written."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
import tiny

from exporter import aoti_compile, cli
from exporter.artifact import check_disk_full
from exporter.targets import baseline, find_targets


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


@pytest.mark.parametrize(
    ("when", "words", "named"),
    [
        ("-shared", LINKER, "{tmp}"),
        ("-c", "cc1plus: fatal error: error writing to {tmp}/ccAbCd.s: No space left on device", "{tmp}"),
        ("weights-", LINKER, "{out}"),
        ("weights-", "as: cannot write {tmp}/cc1.o: Disk quota exceeded", "{tmp}"),
    ],
    ids=["link", "compile", "link the weights", "assemble the weights"],
)
def test_compilers(when, words, named, folder, tmp_path, monkeypatch, capsys):
    temporary, target = tmp_path / "tmp", tmp_path / "out" / "a.so"
    temporary.mkdir()
    target.parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    words = words.format(tmp=temporary)
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, words, when)))
    assert cli.main([str(folder), "--output-dso", str(target), "--max-seq-length", "32"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    place = {"{tmp}": temporary, "{out}": target}[named]
    assert line.startswith(f"error: {place}") and "the disk is full" in line, line
    assert ("TMPDIR" in line) == (named == "{tmp}")
    assert not list(target.parent.iterdir()) and not list(temporary.iterdir())


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


@pytest.mark.parametrize("flag", ["--output-pte", "--output-aoti-package"])
def test_artifacts(flag, folder, tmp_path, monkeypatch, capsys):
    """Writing itself fails, as it does on a full disk: nothing stays, and the place is named."""
    target = tmp_path / "a.out"
    full = Path("/dev/full")
    before = Path.open

    def open_full(path, *arguments, **options):
        return before(full if path.name == target.name else path, *arguments, **options)

    import zipfile

    archive = zipfile.ZipFile
    monkeypatch.setattr(Path, "open", open_full)
    monkeypatch.setattr(zipfile, "ZipFile", lambda path, *a: archive(
        _Stream(full) if str(path).endswith(target.name) else path, *a))  # fmt: skip
    assert cli.main([str(folder), flag, str(target), "--max-seq-length", "32"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: {target}: the disk is full; free some room and export again"
    assert not list(tmp_path.iterdir())


def _Stream(path: Path):
    return open(path, "wb", buffering=0)
