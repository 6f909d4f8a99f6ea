"""The rooms of docs/architecture.md: what each file may import or include."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPORTER = ROOT / "exporter"
RUNNER = ROOT / "runner"
KERNELS = ROOT / "kernels"
MAX_LINES = 410

STDLIB_ONLY = (
    "config*.py", "recipe.py", "schemes.py", "methods.py", "artifact.py", "models.py", "targets.py",
    "command_line.py", "text_file.py", "quality/budget.py", "nearest.py", "other_names.py",
    "recipe_source.py", "adapter.py", "file_kind.py", "quantized_names.py", "tensor_types.py",
)  # fmt: skip
# What is read before torch is loaded, which takes seconds: none of it may load torch when it is imported.
WITHOUT_TORCH = (
    "cli", "prepare", "pipeline", "open_model", "eager", "verify", "checkpoint", "checkpoint_find",
    "checkpoint_hf", "checkpoint_meta", "checkpoint_gguf", "file_tensor", "safetensors_file", "torch_file",
    "checkpoint_weights", "gguf_file", "tokenizer", "chat", "aoti_options", "artifact_reader", "pte_reader",
    "aoti_reader",
    *(f"verbs.{path.stem}" for path in (EXPORTER / "verbs").glob("[a-z]*.py")),
)  # fmt: skip
# file name pattern -> modules it must not import itself
FORBIDDEN = {
    "checkpoint*.py": ("torchao", "executorch", "torch._inductor", "exporter.lower"),
    "model.py": ("torchao", "executorch", "torch._inductor", "exporter.lower"),
    "quantize.py": ("executorch", "torch._inductor", "exporter.lower"),
    "lowbit_search.py": ("torchao", "executorch", "torch._inductor", "exporter.lower"),
    "lowbit_weights.py": ("executorch", "torch._inductor", "exporter.lower"),
    "quality/*.py": ("torchao", "executorch", "torch._inductor", "exporter.lower"),
    "export.py": ("executorch", "torch._inductor", "torchao", "exporter.lower"),
    "lower_aoti.py": ("executorch", "exporter.lower_executorch", "exporter.quantize"),
    "aoti_*.py": ("executorch", "torch._inductor", "exporter.lower_executorch"),
    "pt2_package.py": ("executorch", "torch._inductor", "exporter.lower"),
    "lower_executorch.py": ("torch._inductor", "exporter.lower_aoti", "exporter.quantize"),
}
FRAMEWORK_HEADERS = re.compile(r'#include [<"](torch|ATen|c10|caffe2|executorch)/')
# Of PyTorch, what needs none of its libraries.
C_INTERFACE = re.compile(r"torch/(headeronly/|csrc/inductor/(aoti_torch/c/shim|aoti_runtime/interface)\.h)")


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


def all_imports(path: Path) -> set[str]:
    """What `path` imports, itself and through our own modules; without our own names."""
    seen, waiting, found = set(), [path], set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for name in imports(file):
            if name.split(".")[0] != "exporter":
                found.add(name)
                continue
            ours = EXPORTER / f"{(name.split('.') + ['__init__'])[1]}.py"
            if ours.is_file() and ours not in seen:
                waiting.append(ours)
    return found


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
def test_standard_library_only(pattern):
    """Not even through another file of ours."""
    files = list(EXPORTER.glob(pattern))
    assert files
    for file in files:
        for name in all_imports(file):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names, f"{file.name} imports {name}"


def test_what_is_read_before_torch_is_loaded():
    code = f"import sys, importlib\nfor name in {WITHOUT_TORCH!r}:\n"
    code += "    importlib.import_module('exporter.' + name)\n    assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_runner_core_includes_no_framework():
    with_framework = {
        file.name for file in RUNNER.iterdir()
        if file.suffix in (".h", ".cpp") and FRAMEWORK_HEADERS.search(file.read_text())
    }  # fmt: skip
    assert with_framework == {"et_model.cpp", "aoti_torch_model.cpp"}


def test_the_lean_host_includes_the_c_interface_alone():
    files = [file for file in (RUNNER / "aoti_host").iterdir() if file.suffix in (".h", ".cpp")]
    assert len(files) > 5
    for file in files:
        for line in re.findall(r"#include <(torch/[^>]*)>", file.read_text()):
            assert C_INTERFACE.match(line), f"{file.name} includes {line}"
        assert not re.search(r"#include <(ATen|c10|caffe2)/", file.read_text()), file.name


def test_kernels_core_includes_no_framework_and_starts_no_threads():
    beside = ("bindings", "bench")
    core = [f for f in KERNELS.rglob("*") if f.suffix in (".h", ".cpp")
            and f.relative_to(KERNELS).parts[0] not in beside]  # fmt: skip
    assert len(core) > 10
    unwanted = re.compile(r"#include [<\"](runner/|kernels/bindings/|thread>|mutex>|new>)")
    for file in core:
        text = file.read_text()
        assert not FRAMEWORK_HEADERS.search(text), file.name
        assert not unwanted.search(text), file.name


def test_each_binding_includes_its_own_framework():
    """calls.* none, executorch.cpp ExecuTorch; aoti.cpp PyTorch's stable C header alone."""
    included = {
        file.name: set(re.findall(r"#include <((?:torch|ATen|c10|executorch)/[^>]*)>", file.read_text()))
        for file in (KERNELS / "bindings").iterdir()
    }
    assert not included["calls.h"] | included["calls.cpp"]
    assert included["aoti.cpp"] == {"torch/csrc/inductor/aoti_torch/c/shim.h"}
    assert all(name.startswith("executorch/") for name in included["executorch.cpp"])
    assert not any(name.startswith("executorch/") for name in included["aten.cpp"])


def test_no_file_is_too_long():
    sources = [f for folder in ("exporter", "runner", "kernels", "tests", "scripts")
               for f in (ROOT / folder).rglob("*") if f.suffix in (".py", ".cpp", ".h")]  # fmt: skip
    long = {f.name: n for f in sources if (n := len(f.read_text().splitlines())) > MAX_LINES}
    assert not long
