"""The rooms of docs/architecture.md: what each file may import or include."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPORTER = ROOT / "exporter"
RUNNER = ROOT / "runner"
MAX_LINES = 410

# file name pattern -> modules it must not import, not even through another file of ours
STDLIB_ONLY = ("config*.py", "recipe.py", "artifact.py")
FRAMEWORKS = ("torch", "torchao", "executorch", "transformers")
FORBIDDEN = {
    "checkpoint*.py": ("torchao", "executorch", "torch._inductor", "exporter.lower"),
    "model.py": ("torchao", "executorch", "torch._inductor", "exporter.lower"),
    "quantize.py": ("executorch", "torch._inductor", "exporter.lower"),
    "export.py": ("executorch", "torch._inductor", "torchao", "exporter.lower"),
    "lower_aoti.py": ("executorch", "exporter.lower_executorch", "exporter.quantize"),
    "lower_executorch.py": ("torch._inductor", "exporter.lower_aoti", "exporter.quantize"),
}
FRAMEWORK_HEADERS = re.compile(r'#include [<"](torch|ATen|c10|caffe2|executorch)/')


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch._inductor"):
            names.add("torch._inductor")
    return names


def reaches(names: set[str], forbidden: str) -> bool:
    return any(name == forbidden or name.startswith(forbidden) for name in names)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_python_rooms(pattern):
    files = list(EXPORTER.glob(pattern))
    assert files
    for file in files:
        for forbidden in FORBIDDEN[pattern]:
            assert not reaches(imports(file), forbidden), f"{file.name} imports {forbidden}"


@pytest.mark.parametrize("pattern", STDLIB_ONLY)
def test_framework_free_files(pattern):
    files = list(EXPORTER.glob(pattern))
    assert files
    for file in files:
        for forbidden in FRAMEWORKS:
            assert not reaches(imports(file), forbidden), f"{file.name} imports {forbidden}"


def test_runner_core_includes_no_framework():
    with_framework = {
        file.name for file in RUNNER.iterdir()
        if file.suffix in (".h", ".cpp") and FRAMEWORK_HEADERS.search(file.read_text())
    }  # fmt: skip
    assert with_framework == {"et_model.cpp", "aoti_model.cpp"}


def test_no_file_is_too_long():
    sources = [f for folder in ("exporter", "runner", "tests", "scripts")
               for f in (ROOT / folder).rglob("*") if f.suffix in (".py", ".cpp", ".h")]  # fmt: skip
    long = {f.name: n for f in sources if (n := len(f.read_text().splitlines())) > MAX_LINES}
    assert not long
