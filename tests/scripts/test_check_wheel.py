"""scripts/check_wheel.py: what is wrong with a wheel is said without running anything of it."""

import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from native import ET_RUN

from exporter.lower.targets import this_machine
from scripts.check_wheel import LICENCES, NATIVE, wrongs

HERE = this_machine()
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
MODULE = f"python/_et{sysconfig.get_config_var('EXT_SUFFIX')}"


@pytest.fixture
def files() -> dict[str, bytes]:
    """Those of a good wheel, in its folder of native code."""
    modules = ET_RUN.parent / "python"
    found = {f"bin/{name}": ET_RUN.with_name(name).read_bytes() for name in ("et_run", "aoti_run")}
    found |= {f"python/{path.name}": path.read_bytes() for path in modules.glob("_*.so")}
    for name in LICENCES:
        found[f"share/licenses/{name}.txt"] = b"text"
    return found


def wheel_of(files: dict[str, bytes], folder: Path, tag: str = f"manylinux_2_99_{HERE}") -> Path:
    path = folder / f"x-1-{PYTHON}-{PYTHON}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(NATIVE + name, data)
    return path


def test_a_good_wheel(files, tmp_path):
    assert wrongs(wheel_of(files, tmp_path), HERE) == []


def test_another_machine(files, tmp_path):
    there = "aarch64" if HERE == "x86_64" else "x86_64"
    (line,) = wrongs(wheel_of(files, tmp_path), there)
    assert "has no tag" in line
    lines = wrongs(wheel_of(files, tmp_path, f"manylinux_2_99_{there}"), there)
    assert f"{NATIVE}bin/et_run is for {HERE}" in lines and len(lines) >= 6


def test_an_older_glibc_than_is_needed(files, tmp_path):
    lines = wrongs(wheel_of(files, tmp_path, f"manylinux_2_5_{HERE}"), HERE)
    assert any("bin/et_run needs glibc 2." in line and "the tag says 2.5" in line for line in lines)


@pytest.mark.parametrize("name", ["bin/et_run", MODULE, "share/licenses/pybind11.txt"])
def test_what_is_missing(files, tmp_path, name):
    del files[name]
    (line,) = wrongs(wheel_of(files, tmp_path), HERE)
    assert name in line


def test_what_is_no_module(files, tmp_path):
    files[MODULE] = files["bin/et_run"]
    assert wrongs(wheel_of(files, tmp_path), HERE) == [f"{NATIVE}{MODULE} is no module of Python"]


def test_a_library_of_nobody(files, tmp_path):
    files["bin/et_run"] = files["bin/et_run"].replace(b"\0libm.so.6\0", b"\0libx.so.6\0")
    assert wrongs(wheel_of(files, tmp_path), HERE) == [f"{NATIVE}bin/et_run needs libx.so.6"]
