"""The rooms of docs/architecture.md: what each file may import or include."""

import re
import subprocess
import sys
from pathlib import Path

from scripts import draw_rooms

ROOT = Path(__file__).parent.parent
EXPORTER = ROOT / "exporter"
RUNNER = ROOT / "runner"
KERNELS = ROOT / "kernels"
MAX_LINES = 410

# What is read before torch is loaded, which takes seconds: none of it may load torch when it is imported.
WITHOUT_TORCH = (
    "cli.main", "cli.open_model", "pipeline.prepare", "pipeline.export", "runners.eager", "verify.verify",
    "checkpoint.checkpoint", "tokenizer.tokenizer", "chat.reduce", "lower.aoti_options", "artifact.reader",
    *(f"cli.verbs.{path.stem}" for path in (EXPORTER / "cli" / "verbs").glob("[a-z]*.py")),
)  # fmt: skip
FRAMEWORK_HEADERS = re.compile(r'#include [<"](torch|ATen|c10|caffe2|executorch)/')
# Of PyTorch, what needs none of its libraries.
C_INTERFACE = re.compile(r"torch/(headeronly/|csrc/inductor/(aoti_torch/c/shim|aoti_runtime/interface)\.h)")


def test_python_rooms():
    """The contracts of pyproject.toml: `lint-imports` says what breaks one."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_of_the_rooms_is_drawn_from_the_imports():
    assert draw_rooms.picture() in draw_rooms.DOCUMENT.read_text()


def test_inductor_is_known_to_its_lowering():
    """import-linter sees torch as one package."""
    for file in EXPORTER.rglob("*.py"):
        if "torch._inductor" in file.read_text():
            assert file.is_relative_to(EXPORTER / "lower"), f"{file.relative_to(ROOT)} uses torch._inductor"


def test_what_is_read_before_torch_is_loaded():
    code = f"import sys, importlib\nfor name in {WITHOUT_TORCH!r}:\n"
    code += "    importlib.import_module('exporter.' + name)\n    assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_runner_core_includes_no_framework():
    with_framework = {
        file.relative_to(RUNNER).as_posix() for file in RUNNER.rglob("*")
        if file.suffix in (".h", ".cpp") and FRAMEWORK_HEADERS.search(file.read_text())
    }  # fmt: skip
    host = {name for name in with_framework if name.startswith("backends/aoti_host/")}
    assert with_framework - host == {"backends/et_model.cpp", "backends/aoti_torch_model.cpp"}


def test_the_lean_host_includes_the_c_interface_alone():
    files = [file for file in (RUNNER / "backends" / "aoti_host").iterdir() if file.suffix in (".h", ".cpp")]
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
