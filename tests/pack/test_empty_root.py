"""Bundles and programs of one file run where nothing is but what they need: in a root folder of their own.

scripts/test_aarch64.sh and scripts/test_cross.sh build what those for 64-bit Arm need, and run this.
"""

import importlib.util
import os
import shutil
import subprocess

import empty_root
import pytest
import tiny
from native import ROOT, export

from exporter.cli import main as cli
from exporter.lower.targets import this_machine
from exporter.pack.targets import build_folder

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the root folder"),
    pytest.mark.skipif(this_machine() != "x86_64", reason="the emulated machine is the other"),
]
RUN = ("-i", "The capital of France is", "-t", "0", "-n", "8", "--ignore-eos")


def is_built(preset: str) -> bool:
    return (ROOT / build_folder(preset) / "CMakeCache.txt").is_file()


EMULATED = empty_root.EMULATOR is not None and empty_root.ARM_LIBRARIES.is_dir() and is_built("aarch64")
STATIC = [
    machine
    for machine in ("x86_64", "aarch64")
    if importlib.util.find_spec("ziglang") and is_built(f"linux-{machine.replace('_', '-')}-static")
    and (machine == this_machine() or empty_root.EMULATOR)
]  # fmt: skip
MACHINES = ["x86_64", *(["aarch64"] if EMULATED else [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roots")
    tiny.make_hf(folder / "m", "llama3.1")
    targets = ["x86-64", *(["aarch64"] if EMULATED else [])]
    targets += [f"{machine.replace('_', '-')}-static" for machine in STATIC]
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--target", ",".join(targets),
           "--output-pte", folder / "m.pte", "--output-aoti-package", folder / "m.pt2")  # fmt: skip
    return folder


def pack(*arguments: object) -> None:
    assert cli.main(["pack", *map(str, arguments), "--no-verify"]) == 0


@pytest.fixture(scope="module")
def expected(folder):
    """What the bundle of the `.pte` says, run where everything is."""
    pack(folder / "m.pte", "-o", folder / "here")
    done = subprocess.run([folder / "here" / "run.sh", *RUN], capture_output=True, check=True)
    assert done.stdout.startswith(b"The capital of France is")
    return done.stdout


def checked(done) -> bytes:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("model", ["m.pte", "m.pt2"])
def test_a_bundle(folder, expected, tmp_path, model, machine):
    root = tmp_path / "root"
    pack(folder / model, "--target", f"linux-{machine.replace('_', '-')}", "-o", root)
    empty_root.fill_root(root, machine)
    assert checked(empty_root.run_script(root, machine, *RUN)) == expected
    assert b"passed" in checked(empty_root.run_script(root, machine, "--self-test"))


@pytest.mark.skipif(not STATIC, reason="zig's builds are not here: run scripts/test_cross.sh")
@pytest.mark.parametrize("machine", STATIC)
def test_a_program_of_one_file(folder, expected, tmp_path, machine):
    pack(folder / "m.pt2", "--single-file", "--target", f"linux-{machine.replace('_', '-')}-musl",
         "-o", tmp_path / "m")  # fmt: skip
    words = ["/m"]
    if machine != this_machine():
        shutil.copy(empty_root.EMULATOR, tmp_path / "emulator")
        words = ["/emulator", "/m"]
    assert checked(empty_root.run_in(tmp_path, *words, *RUN)) == expected
    assert b"passed" in checked(empty_root.run_in(tmp_path, *words, "--self-test"))
