"""Paths of this repository that documents and comments name are there."""

import io
import re
import tokenize
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("exporter", "runner", "kernels", "tests", "scripts")
# Not in an include, nor below another folder (`cmake-out/tests/`), nor of a place (`.../tests/`).
NAMED = re.compile(r"(?<![\w./\"<-])(?:" + "|".join(ROOMS) + r")/[\w./{},*-]*\w[}*]?/?")
# What stands for a name, and what a build makes.
NOT_OURS = re.compile(r"NAME|operators\.inc")
LINE_COMMENTS = {".cpp": "//", ".h": "//", ".sh": "#", ".cmake": "#", ".txt": "#"}


def comments(path: Path) -> str:
    """What a file says in words: a document whole, of code the comments and docstrings."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    if path.suffix == ".py":
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        return "\n".join(t.string for t in tokens if t.type == tokenize.COMMENT or t.string.startswith('"""'))
    sign = LINE_COMMENTS[path.suffix]
    return "\n".join(line.split(sign, 1)[1] for line in text.splitlines() if sign in line)


def expanded(name: str) -> list[str]:
    """{a,b} in a name as each of them."""
    parts = re.split(r"\{([^}]*)\}", name)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def test_expanding():
    assert expanded("runner/{a,b}.{h,cpp}") == ["runner/a.h", "runner/a.cpp", "runner/b.h", "runner/b.cpp"]


def test_named_paths_are_there():
    files = [file for folder in (*ROOMS, "docs", "cmake") for file in (ROOT / folder).rglob("*")]
    files += [ROOT / "README.md", ROOT / "CMakeLists.txt"]
    documents = [file for file in files if file.suffix in {*LINE_COMMENTS, ".md", ".py"}]
    assert len(documents) > 300
    missing = []
    for file in documents:
        for name in NAMED.findall(comments(file)):
            if not NOT_OURS.search(name) and not all(any(ROOT.glob(each)) for each in expanded(name)):
                missing.append(f"{file.relative_to(ROOT)}: {name}")
    assert missing == []
