"""The rooms of docs/architecture.md: what each file may import or include."""

import ast
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
    "checkpoint.checkpoint", "tokenizer.tokenizer", "chat.take_over", "lower.aoti_options", "artifact.reader",
    *(f"cli.verbs.{path.stem}" for path in (EXPORTER / "cli" / "verbs").glob("[a-z]*.py")),
)  # fmt: skip
# Names that several modules may have: what every module of a kind has.
SHARED_NAMES = {
    "SUMMARY", "configure", "run",  # verbs
    "FAMILY", "from_hf", "from_gguf", "HARMLESS", "NEUTRAL",  # families and their sources
    "lower",  # the two lowerings
    "main",
}  # fmt: skip
FRAMEWORK_HEADERS = re.compile(r'#include [<"](torch|ATen|c10|caffe2|executorch)/')
# In `runner/`: each includes itself and those before it.
ROOMS = ("system", "text", "model", "decode", "backends", "app", "python")
# What each of `runner/backends/` may include beside itself.
BACKENDS = {
    "et_model": (),
    "et_stock": (),
    "aoti_model": ("aoti_artifact", "aoti_host"),
    "aoti_torch_model": ("aoti_artifact",),
    "aoti_artifact": (),
    "aoti_host": (),
}
# Of PyTorch, what needs none of its libraries.
C_INTERFACE = re.compile(r"torch/(headeronly/|csrc/inductor/(aoti_torch/c/shim|aoti_runtime/interface)\.h)")


def test_python_rooms():
    """The contracts of pyproject.toml: `lint-imports` says what breaks one."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_of_the_rooms_is_drawn_from_the_imports():
    assert draw_rooms.picture() in draw_rooms.DOCUMENT.read_text()


def test_no_two_public_things_have_one_name():
    places: dict[str, list[str]] = {}
    for file in EXPORTER.rglob("*.py"):
        for name in _public_names(ast.parse(file.read_text())):
            places.setdefault(name, []).append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def _public_names(module: ast.Module) -> set[str]:
    """Return what a module defines for others, but for type variables of one letter."""
    found = set()
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (name for target in targets for name in ast.walk(target))
            found |= {name.id for name in names if isinstance(name, ast.Name)}
    return {name for name in found if len(name) > 1 and not name.startswith("_")} - SHARED_NAMES


def test_inductor_is_known_to_its_lowering():
    """import-linter sees torch as one package."""
    for file in EXPORTER.rglob("*.py"):
        if "torch._inductor" in file.read_text():
            assert file.is_relative_to(EXPORTER / "lower"), f"{file.relative_to(ROOT)} uses torch._inductor"


def test_what_is_read_before_torch_is_loaded():
    code = f"import sys, importlib\nfor name in {WITHOUT_TORCH!r}:\n"
    code += "    importlib.import_module('exporter.' + name)\n    assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def runner_files() -> dict[str, Path]:
    """By their names in `runner/`."""
    return {f.relative_to(RUNNER).as_posix(): f for f in RUNNER.rglob("*") if f.suffix in (".h", ".cpp")}


def own_includes(path: Path) -> set[str]:
    return set(re.findall(r'#include "([^"]+)"', path.read_text()))


def test_each_room_of_the_runner_includes_those_before_it():
    """And the kernels. Neither the programs nor the Python module is included; a program sees no backend."""
    assert {name.split("/")[0] for name in runner_files()} == set(ROOMS)
    for name, file in runner_files().items():
        room = name.split("/")[0]
        below = {*ROOMS[: ROOMS.index(room)], room, "kernels"}
        below -= {"app": {"backends"}, "python": {"app"}}.get(room, set())
        for included in own_includes(file):
            assert included.split("/")[0] in below, f"{name} includes {included}"


def test_no_backend_includes_another():
    for name, file in runner_files().items():
        if name.startswith("backends/"):
            backend = re.split("[/.]", name)[1]
            included = {re.split("[/.]", i)[1] for i in own_includes(file) if i.startswith("backends/")}
            assert included <= {backend, *BACKENDS[backend]}, name


def test_each_backend_alone_includes_its_framework():
    frameworks = {
        name: set(FRAMEWORK_HEADERS.findall(file.read_text())) for name, file in runner_files().items()
        if not name.startswith("backends/aoti_host/")
    }  # fmt: skip
    assert frameworks.pop("backends/et_model.cpp") == {"executorch"}
    assert frameworks.pop("backends/aoti_torch_model.cpp") == {"torch", "ATen", "c10"}
    assert not any(frameworks.values())


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
    folders = "|".join((*ROOMS, "runner", "kernels/bindings"))
    unwanted = re.compile(rf"#include [<\"](({folders})/|(thread|mutex|new)>)")
    for file in core:
        text = file.read_text()
        if file.parent.name == "state":  # has memory of its own, and a table that any thread may ask
            text = re.sub("#include <(mutex|new)>", "", text)
        else:
            assert '#include "kernels/state/' not in text, file.name
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
