"""`cmake --install`: programs that can be moved, and what they need there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from native import ET_RUN, ROOT, export

CMAKE = Path(sys.executable).with_name("cmake")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """An installation that was moved."""
    folder = tmp_path_factory.mktemp("install")
    subprocess.run([CMAKE, "--install", ROOT / "cmake-out", "--prefix", folder / "first"],
                   check=True, capture_output=True)  # fmt: skip
    return (folder / "first").rename(folder / "moved")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    tiny.make_hf(folder / "m", "llama3.1")
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 32, "--output-pte", folder / "m.pte",
           "--output-aoti-package", folder / "m.pt2")  # fmt: skip
    export(folder / "m", "--delegate", "stock", "--max-seq-length", 32,
           "--output-pte", folder / "stock.pte")  # fmt: skip
    return folder


def run_bare(program: Path, artifact: Path) -> subprocess.CompletedProcess:
    """Runs without any variable of this environment."""
    return subprocess.run([program, artifact, "--tokens", "5,6,7", "-t", "0", "-n", "8", "--ignore-eos"],
                          env={}, capture_output=True)  # fmt: skip


@pytest.mark.parametrize(
    ("program", "name"), [("et_run", "m.pte"), ("aoti_run", "m.pt2"), ("et_run", "stock.pte")]
)
def test_moved_programs_run(program, name, moved, artifacts):
    done = run_bare(moved / "bin" / program, artifacts / name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == run_bare(ET_RUN.with_name(program), artifacts / name).stdout


def test_nothing_names_the_folder_that_built_it(moved):
    for path in [moved / "bin" / "et_run", moved / "bin" / "aoti_run", moved / "lib" / "libet_stock.so"]:
        dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        assert re.findall(r"runpath: \[(.*)\]", dynamic) == (
            [] if path.name == "aoti_run" else ["$ORIGIN:$ORIGIN/../lib"]
        )
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        assert ("libexecutorch.so" in needed) == (path.name != "aoti_run")
        assert not any("executorch_" in name for name in needed if path.name == "et_run")


def test_stock_kernels_are_needed_by_stock_models_alone(moved, artifacts, tmp_path):
    small = tmp_path / "small"
    (small / "lib").mkdir(parents=True)
    shutil.copy(moved / "bin" / "et_run", small)
    shutil.copy(moved / "lib" / "libexecutorch.so", small)
    assert run_bare(small / "et_run", artifacts / "m.pte").returncode == 0
    done = run_bare(small / "et_run", artifacts / "stock.pte")
    assert done.returncode == 1
    assert b"libet_stock.so" in done.stderr and b"--delegate lowbit" in done.stderr


def test_nothing_of_python_is_installed(moved):
    """Its modules and operators are for a wheel, or used where they are built."""
    assert sorted(path.name for path in moved.iterdir()) == ["bin", "lib", "share"]
