"""Tell files that stand for others, or hold nothing, from files with content."""

from __future__ import annotations

from pathlib import Path

# The first line of every Git LFS pointer (git-lfs, docs/spec.md).
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")


def check_content(path: Path) -> None:
    """Raise ValueError for an empty file, a Git LFS pointer and a web page, none of which is the file
    that its name says; OSError for one that cannot be read."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if not start:
        raise ValueError(f"{path} is empty: copy or download it again")
    if start == LFS_POINTER:
        raise ValueError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in the repository that "
            "it was cloned from, or download the file"
        )
    if start.lstrip().lower().startswith(PAGES):
        raise ValueError(
            f"{path} is a web page, not the file itself: download the file, not the page that shows it "
            "(a gated one only with a log-in)"
        )
