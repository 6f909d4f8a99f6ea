#!/usr/bin/env python3
"""Makes the English texts that quality is measured with, from Debian's packages.

    .venv/bin/python scripts/calibration_texts.py FOLDER

FOLDER/jargon.txt, to evaluate on, is the Jargon File of `jargon-text`. To calibrate with:
FOLDER/handbook.txt, a manual, is the English HTML of `debian-handbook`; FOLDER/essays.txt, prose on
politics and history, the sections of `anarchism`. Needs apt-get and dpkg-deb; nothing is installed.
Prints the texts' sizes, and their lengths in tokens of --model.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.util.files import written_whole  # noqa: E402
from scripts.bench.command_line import Parser, exit_status, first_line, note  # noqa: E402

PACKAGES = ("jargon-text", "debian-handbook", "anarchism")
JARGON = "usr/share/doc/jargon-text/jargon.txt.gz"
HANDBOOK = "usr/share/doc/debian-handbook/html/en-US"
ESSAYS = "usr/share/doc/anarchism/html"
TOKENS_WANTED = 100_000

BLOCKS = frozenset("body dd div dl dt h1 h2 h3 h4 h5 h6 li ol p pre table td th tr ul".split())
HIDDEN_TAGS = frozenset(("head", "script", "style"))
HIDDEN_CLASSES = frozenset(("docnav", "toc"))
HIDDEN_IDS = frozenset(("banner", "title"))  # the page's head, the same on every page
VOID_TAGS = frozenset(("br", "col", "hr", "img", "input", "link", "meta"))
BOX_DRAWING = re.compile("[\u2500-\u257f]")
LIST_LENGTH = 8  # from so many lines on a list of headings is a table of contents


def jargon_prose(text: str) -> str:
    """The Jargon File's paragraphs, a line each, without drawn tables and tables of contents.

    Paragraphs stand 3 columns in; what stands elsewhere, verses and listings, keeps its lines.
    """
    blocks = [block for block in re.split(r"\n\s*\n", text) if not BOX_DRAWING.search(block)]
    kept: list[str] = []
    for heading, run in groupby(blocks, _is_heading):
        run = list(run)
        if heading and len(run) >= LIST_LENGTH:
            continue
        kept += map(_paragraph, run)
    return "\n\n".join(block for block in kept if block) + "\n"


def _is_heading(block: str) -> bool:
    line = block.strip()
    return "\n" not in line and len(line) <= 60 and not line.startswith(":") and (
        line[-1:] not in ".?!:;,”’)"
    )


def _paragraph(block: str) -> str:
    lines = block.strip("\n").splitlines()
    if all(re.match(r" {3}\S", line) for line in lines):
        return " ".join(line.strip() for line in lines)
    return "\n".join(line.removeprefix("   ").rstrip() for line in lines)


class _Text(HTMLParser):
    """Collects a page's blocks of text; white space counts in `pre` alone."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.current = ""
        self.open: list[tuple[str, bool]] = []  # tags, and whether their content is dropped
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag == "a" and named.get("href"):
            self.hrefs.append(named["href"])
        if tag in VOID_TAGS:
            self.current += "\n" if tag == "br" and self._within("pre") else " "
            return
        if tag in BLOCKS:
            self._finish_block()
        classes = set((named.get("class") or "").split())
        hidden = (
            tag in HIDDEN_TAGS or classes & HIDDEN_CLASSES or named.get("id") in HIDDEN_IDS
        )
        self.open.append((tag, bool(hidden) or self._hidden()))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in VOID_TAGS:
            self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag: str) -> None:
        if tag not in (name for name, _ in self.open):
            return
        if tag in BLOCKS:
            self._finish_block()
        while self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self._hidden():
            self.current += data

    def _hidden(self) -> bool:
        return bool(self.open) and self.open[-1][1]

    def _within(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.open)

    def _finish_block(self) -> None:
        text = self.current
        text = text.strip("\n").rstrip() if self._within("pre") else " ".join(text.split())
        if text.strip():
            self.blocks.append(text)
        self.current = ""


def page_text(html: str) -> str:
    """An HTML page's text, its blocks apart by an empty line, without navigation and scripts."""
    parser = _parsed(html)
    return "\n\n".join(parser.blocks)


def pages_in_order(folder: Path) -> list[Path]:
    """The HTML files that the table of contents of folder/index.html names, in its order."""
    hrefs = _parsed((folder / "index.html").read_text(encoding="utf-8")).hrefs
    names = dict.fromkeys(href.split("#")[0] for href in hrefs)
    names.pop("index.html", None)
    return [folder / name for name in names if re.fullmatch(r"[\w.-]+\.html", name)]


def text_of(pages: Iterable[Path], errors: str = "strict") -> str:
    """The pages' text, one after the other. `errors`: of `bytes.decode`, for what is not UTF-8."""
    texts = (page_text(page.read_text(encoding="utf-8", errors=errors)) for page in pages)
    return "\n\n".join(texts) + "\n"


def _parsed(html: str) -> _Text:
    parser = _Text()
    parser.feed(html)
    parser.close()
    parser._finish_block()
    return parser


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Downloads and unpacks Debian packages into `folder`. Raises OSError with apt's own words."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise OSError(f"{program} is not here: the texts come from Debian's packages; run this "
                          "on Debian or Ubuntu")  # fmt: skip
    try:
        _run(["apt-get", "update"], folder)
    except OSError as error:  # not root, say; lists of an earlier update do as well
        note(f"warning: {error}")
    for package in packages:
        _run(["apt-get", "download", package], folder)
    for file in sorted(folder.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(file), str(folder)], folder)


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        words = next((line for line in done.stderr.splitlines() if line.startswith("E:")), "")
        reason = words or first_line(ValueError(done.stderr))
        raise OSError(f"{' '.join(command[:2])} failed: {reason}")


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch)
        unpacked.chmod(0o755)  # apt-get downloads as a user of its own
        note(f"fetching {', '.join(PACKAGES)}")
        fetch(PACKAGES, unpacked)
        texts = {
            "jargon.txt": jargon_prose(gzip.decompress((unpacked / JARGON).read_bytes()).decode()),
            "handbook.txt": text_of(pages_in_order(unpacked / HANDBOOK)),
            "essays.txt": text_of(sorted((unpacked / ESSAYS).glob("sec*.html")), "replace"),
        }
    from exporter.checkpoint.checkpoint import open_checkpoint  # torch takes seconds
    from exporter.tokenizer.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(open_checkpoint(options.model).tokenizer_path)
    for name, text in texts.items():
        tokens = len(tokenizer.encode(text))
        if tokens < TOKENS_WANTED:
            raise ValueError(f"{name} has only {tokens} tokens, {TOKENS_WANTED} are wanted: the "
                             "package is another than the one known; read it by hand")  # fmt: skip
        with written_whole(options.folder / name) as part:
            part.write_text(text, encoding="utf-8")
        print(f"{options.folder / name}: {len(text.encode())} bytes, {tokens} tokens")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="calibration_texts.py", description=__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="where the texts go")
    add("--model", default="smollm2", help="whose tokenizer counts; default: smollm2")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
