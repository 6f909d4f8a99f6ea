#!/usr/bin/env python3
"""Tries the compilers and the Pythons that are here, beside those that this project was set up with.

    .venv/bin/python scripts/try_compilers.py            # after scripts/test.sh or scripts/build_native.sh
    .venv/bin/python scripts/try_compilers.py --compilers clang++-14 --pythons python3.12

With each compiler it builds the runners and the C++ tests, runs these, exports a tiny model to a .pt2 whose
code that compiler compiles, and runs it: its logits must be the default compiler's, bit for bit. With each
Python it resolves every pin (nothing large is downloaded), compiles the sources, installs the packages that
do not need torch, and lets that Python inspect the .pt2. A table says what came out; status 1 if anything
failed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.bench.command_line import ROOT, Parser, exit_status, note  # noqa: E402
from scripts.install import requirements  # noqa: E402

CXX_NAMES = ("g++", "clang++", *(f"g++-{n}" for n in range(11, 16)), *(f"clang++-{n}" for n in range(14, 22)))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
BUILDS = ROOT / "cmake-out" / "try compilers"  # a space in the path is tried too
HEAVY = ("torch", "executorch")  # what is or needs torch (torchao too, by its name)
TOKENS = ("--tokens", "5,6,7", "-t", "0", "-n", "20", "--ignore-eos")


@dataclass(frozen=True)
class Row:
    name: str
    version: str
    seconds: float
    came_out: str
    passed: bool


class Failed(ValueError):
    """One line: what a compiler or a Python could not do."""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.install:
        install_clang()
    compilers = options.compilers.split(",") if options.compilers is not None else other_compilers()
    pythons = options.pythons.split(",") if options.pythons is not None else other_pythons()
    if options.quick:
        compilers = sorted(compilers, key=lambda name: "clang" not in name)[:1]
        pythons = pythons[:1]
    with tempfile.TemporaryDirectory(prefix="try compilers ") as name:
        folder = Path(name)
        note("exporting with the default compiler")
        model, package = folder / "tiny", folder / "m.pt2"
        make_tiny(model)
        export(model, package, {})
        expected = logits_hash(ROOT / "cmake-out" / "aoti_run", package, folder)
        rows = [try_compiler(cxx, model, expected, folder, options.quick) for cxx in filter(None, compilers)]
        rows += [try_python(python, package, folder) for python in filter(None, pythons)]
    print(table(rows))
    for kind, found in (("compiler", compilers), ("Python", pythons)):
        if not any(found):
            print(f"\nnot tried: another {kind} than the default is not here")
    if not rows:
        note("error: nothing to try; install another compiler (Debian: clang), or name one with --compilers")
        return 1
    print(f"\n{sum(row.passed for row in rows)} passed, {sum(not row.passed for row in rows)} failed")
    return int(not all(row.passed for row in rows))


def table(rows: Sequence[Row]) -> str:
    lines = ["| tried | version | seconds | came out |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.version} | {row.seconds:.0f} | {row.came_out} |" for row in rows]
    return "\n".join(lines)


def other_compilers() -> list[str]:
    """The compilers of Debian's names that are here, other than that of cmake-out."""
    cache = ROOT / "cmake-out" / "CMakeCache.txt"
    text = cache.read_text() if cache.is_file() else ""
    default = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", text, re.MULTILINE)
    seen, found = {os.path.realpath(default.group(1))} if default else set(), []
    for name in CXX_NAMES:
        path = shutil.which(name)
        if path is not None and (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            found.append(name)
    return found


def other_pythons() -> list[str]:
    """An interpreter of each release that is supported and is not this one: on PATH, or pyenv's."""
    found = []
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for release in PYTHONS:
        if release == "{}.{}".format(*sys.version_info):
            continue
        names = [f"python{release}", *map(str, sorted(versions.glob(f"{release}.*/bin/python")))]
        found += next(([name] for name in names if _version(name) is not None), [])
    return found


def install_clang() -> None:
    """Install Debian's clang where none is here and that is allowed; say so where it is not."""
    if any("clang" in name for name in other_compilers()):
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        note("no clang here, and it cannot be installed: no other compiler is tried")
        return
    note("installing clang")
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "clang"]):
        if subprocess.run(command, capture_output=True).returncode:
            note("clang cannot be installed: no other compiler is tried")
            return


def try_compiler(cxx: str, model: Path, expected: str, folder: Path, quick: bool) -> Row:
    """Build, test, export and run with the compiler `cxx`."""
    start, said, version = time.monotonic(), [], _version(cxx)
    note(f"building with {cxx}")
    build = BUILDS / Path(cxx).name
    environment = {"CXX": f"env {shlex.quote(cxx)}", "CC": _c_compiler(cxx)}
    try:
        if version is None:
            raise Failed("does not run")
        options = ["-DPYTHON_MODULE=OFF", "-DLOWBIT_ATEN=OFF"] if quick else []
        shutil.rmtree(build, ignore_errors=True)  # another compiler of that name is not to be mixed in
        cmake = str(Path(sys.executable).parent / "cmake")
        options += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython3_EXECUTABLE={sys.executable}"]
        _call([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options],
              "is not taken by CMake", environment)  # fmt: skip
        targets = ["--target", "et_run", "aoti_run"] if quick else []
        log = _call([cmake, "--build", str(build), *targets], "does not build", environment)
        said.append(f"builds, {len(re.findall('warning:', log))} warnings")
        if not quick:
            ctest = [str(Path(sys.executable).parent / "ctest"), "--test-dir", str(build)]
            said.append(re.search(r"out of (\d+)", _call(ctest, "fails tests")).group(1) + " tests")
        package = folder / f"{Path(cxx).name}.pt2"
        export(model, package, environment)
        if logits_hash(build / "aoti_run", package, folder) != expected:
            raise Failed("other logits of .pt2")
        said.append("exports a .pt2, the same logits")
        return Row(cxx, version, time.monotonic() - start, ", ".join(said), True)
    except Failed as error:
        said.append(str(error))
        return Row(cxx, version or "?", time.monotonic() - start, ", ".join(said), False)


def try_python(python: str, package: Path, folder: Path) -> Row:
    """Resolve the pins, compile the sources and inspect `package` with the interpreter `python`."""
    start, said, version = time.monotonic(), [], _version(python)
    note(f"trying {python}")
    try:
        if version is None:
            raise Failed("does not run")
        environment = folder / "python environment"
        shutil.rmtree(environment, ignore_errors=True)
        _call([python, "-m", "venv", str(environment)], "makes no environment")
        pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
        every = requirements(["dependencies", "export", "build", "cross", "tasks", "test"])
        _call([*pip, "install", "--dry-run", "--no-deps", *_without_torch(every)], "lacks a pinned release")
        said.append(f"{len(every)} pins")
        light = [pin for pin in requirements(["dependencies", "export"]) if not pin.startswith(HEAVY)]
        _call([*pip, "install", *light], "cannot install the pins without torch")
        _call([pip[0], "-m", "compileall", "-q", "-f", "exporter", "scripts"],
              "does not compile the sources", {"PYTHONPYCACHEPREFIX": str(folder / "compiled")})  # fmt: skip
        said.append("compiles")
        inspect = ["-m", "exporter", "inspect", str(package), "--json"]
        ours, theirs = (_call([which, *inspect], "does not inspect") for which in (sys.executable, pip[0]))
        if ours != theirs:
            raise Failed("inspects to other words")
        said.append("inspects a .pt2 (torch not tried)")
        return Row(python, version, time.monotonic() - start, ", ".join(said), True)
    except Failed as error:
        said.append(str(error))
        return Row(python, version or "?", time.monotonic() - start, ", ".join(said), False)


def make_tiny(folder: Path) -> None:
    """Write the tests' tiny Llama into `folder`."""
    code = "import pathlib, sys, tiny; tiny.make_hf(pathlib.Path(sys.argv[1]), 'llama3')"
    _call([sys.executable, "-c", code, str(folder)], "cannot make the tests' model",
          {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})  # fmt: skip


def export(model: Path, package: Path, environment: dict[str, str]) -> None:
    words = ["-m", "exporter", str(model), "--quantize", "q4", "--max-seq-length", "64"]
    _call([sys.executable, *words, "--output-aoti-package", str(package)], "does not export", environment)


def logits_hash(runner: Path, package: Path, folder: Path) -> str:
    """The hash of the text and the logits that `runner` makes of `package`."""
    out = folder / "logits.npy"
    text = _call([str(runner), str(package), *TOKENS, "--logits-out", str(out)], "does not run the .pt2")
    return hashlib.sha256(text.encode() + out.read_bytes()).hexdigest()


def _without_torch(pins: Sequence[str]) -> list[str]:
    return [pin for pin in pins if not pin.startswith("torch==")]  # gigabytes where only PyPI's is seen


def _c_compiler(cxx: str) -> str:
    name = cxx.replace("clang++", "clang").replace("g++", "gcc")
    return name if shutil.which(name) else "cc"


def _version(program: str) -> str | None:
    """The version that a program says it has, None where it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True)
    except OSError:
        return None
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return found.group() if done.returncode == 0 and found else None


def _call(command: Sequence[str], trouble: str, environment: dict[str, str] | None = None) -> str:
    """Run `command` in the repository: what it prints. Raises Failed, with its last words on stderr."""
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, text=True,
                              capture_output=True, errors="replace")  # fmt: skip
    except OSError as error:
        raise Failed(f"{trouble}: {error.strerror}") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        sys.stderr.write("\n".join(lines[-30:]) + "\n")
        telling = [line.strip() for line in lines if re.search("error|FAILED", line, re.IGNORECASE)]
        raise Failed(f"{trouble}: {(telling or lines or ['no word'])[0][:120]}")
    return done.stdout


def _parser() -> Parser:
    parser = Parser(prog="try_compilers.py", description=__doc__)
    add = parser.add_argument
    add("--compilers", metavar="NAMES", help="these, with commas (default: all found; '' for none)")
    add("--pythons", metavar="NAMES", help="these, with commas (default: all found; '' for none)")
    add("--quick", action="store_true", help="one of each, clang first; the runners without the tests")
    add("--install", action="store_true", help="where there is no clang, install Debian's (needs root)")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
