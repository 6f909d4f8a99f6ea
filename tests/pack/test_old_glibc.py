"""aoti_run and a model's code for systems with glibc 2.17, which zig compiles; `scripts/test_cross.sh glibc`
builds what is tested here."""

import json
import shutil
import subprocess

import pytest
import tiny
from native import AOTI_RUN, ROOT, export

from exporter.cli import main as cli
from exporter.lower.targets import this_machine
from exporter.pack.elf_needs import version_key
from exporter.pack.targets import build_folder

CODES = ("x86-64-glibc2.17", "aarch64-glibc2.17")
EMULATOR = shutil.which("qemu-aarch64-static")
pytestmark = [
    pytest.mark.skipif(this_machine() != "x86_64", reason="the emulated machine is the other"),
    pytest.mark.skipif(
        not all((ROOT / build_folder(f"linux-{code}") / "CMakeCache.txt").is_file() for code in CODES),
        reason="builds for glibc 2.17 are not here: run scripts/test_cross.sh glibc",
    ),
]
RUN = ("--tokens", "5,6,7", "-t", "0", "-n", "8", "--ignore-eos")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glibc")
    tiny.make_hf(folder / "m", "llama3.1")
    for code in (*CODES, "x86-64"):
        export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--target", code,
               "--output-aoti-package", folder / f"{code}.pt2")  # fmt: skip
    return folder


@pytest.mark.parametrize("code", CODES)
def test_a_bundle_for_an_old_system(folder, tmp_path, code):
    package, bundle = folder / f"{code}.pt2", tmp_path / "old"
    target = ("--target", f"linux-{code}")
    assert cli.main(["pack", str(package), *target, "--no-verify", "-o", str(bundle)]) == 0
    needs = json.loads((bundle / "MANIFEST.json").read_text())["needs"]
    assert list(needs["versions"]) == ["GLIBC"] and version_key(needs["versions"]["GLIBC"]) <= (2, 17)
    assert not [name for name in needs["libraries"] if "c++" in name]
    words = [bundle / "run.sh"]
    if code.startswith("aarch64"):
        if EMULATOR is None:
            pytest.skip("no emulator: apt-get install qemu-user-static g++-aarch64-linux-gnu")
        words = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", bundle / "bin" / "aoti_run", bundle / "model.pt2"]
    expected = subprocess.run([AOTI_RUN, folder / "x86-64.pt2", *RUN], capture_output=True, check=True)
    done = subprocess.run([*words, *RUN], capture_output=True)
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr


def test_code_for_newer_systems_is_refused(folder, tmp_path, capsys):
    assert cli.main(["pack", str(folder / "x86-64.pt2"), "--target", "linux-x86-64-glibc2.17", "--no-verify",
                     "-o", str(tmp_path / "b")]) == 1  # fmt: skip
    assert "export it with --target x86-64-glibc2.17 alone" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
