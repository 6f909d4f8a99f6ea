"""What zig compiles into programs of one file. scripts/test_cross.sh builds what is
needed and runs this; elsewhere it is left out."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import minisign
import numpy as np
import pytest
import tiny
from ended_packs import end_packs
from native import AOTI_RUN, ROOT, export

from exporter.cli import main as cli
from exporter.lower.targets import this_machine
from exporter.pack.single_file import put_in
from exporter.pack.targets import build_folder

STATIC, ARM_STATIC = "linux-x86-64-static", "linux-aarch64-static"
BUILT = [preset for preset in (STATIC, ARM_STATIC) if (ROOT / build_folder(preset)).is_dir()]
pytestmark = [
    pytest.mark.skipif(this_machine() != "x86_64", reason="the tests are of x86-64's programs"),
    pytest.mark.skipif(
        len(BUILT) < 2 or importlib.util.find_spec("ziglang") is None,
        reason="zig's builds are not here: run scripts/test_cross.sh",
    ),
]
RUN = ("--tokens", "5,6,7", "-t", "0", "-n", "8", "--ignore-eos")
NEITHER_PROC_NOR_DEV = dict(env={}, cwd="/", capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross")
    tiny.make_hf(folder / "m", "llama3.1")
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 64,
           "--target", "x86-64,x86-64-static,aarch64-static",
           "--output-aoti-package", folder / "static.pt2")  # fmt: skip
    return folder


def pack(*arguments: object) -> None:
    assert cli.main(["pack", *map(str, arguments), "--no-verify"]) == 0


@pytest.fixture(scope="module")
def single(folder):
    pack(folder / "static.pt2", "--single-file", "-o", folder / "single")
    return folder / "single"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may enter an empty root")
def test_a_single_file_in_an_empty_folder(folder, single, tmp_path):
    """Nothing is there but the program: no library, no /proc, no /dev."""
    expected = subprocess.run([AOTI_RUN, folder / "static.pt2", *RUN], capture_output=True).stdout
    shutil.copy(single, tmp_path / "m")
    inside = dict(preexec_fn=lambda: (os.chroot(tmp_path), os.chdir("/")), **NEITHER_PROC_NOR_DEV)
    done = subprocess.run(["/m", *RUN], **inside)
    assert done.returncode == 0 and done.stdout == expected, done.stderr
    done = subprocess.run(["/m", "--self-test", "--json"], **inside)
    assert json.loads(done.stdout)["passed"] and done.returncode == 0
    assert subprocess.run(["/m", "--tokens", "5", "-n", "2"], **inside).returncode == 0  # a seed of its own
    done = subprocess.run(["/m", "model.pt2"], **inside)
    assert done.returncode == 2 and b"the model is in this program" in done.stderr
    done = subprocess.run(["/m", "--help"], **inside)
    assert b"Usage: m [flags]" in done.stdout and b"MODEL" not in done.stdout.split(b"\n")[0]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_single_file_is_an_archive_too(folder, single):
    with zipfile.ZipFile(single) as archive:
        manifest = json.loads(archive.read("MANIFEST.json"))
        names = set(archive.namelist())
        data = {name: archive.read(name) for name in manifest["files"]}
    assert manifest["self_test"]["passed"] and manifest["verify"] == "not run"
    assert names == {*manifest["files"], "MANIFEST.json"}
    for name, said in manifest["files"].items():
        assert hashlib.sha256(data[name]).hexdigest() == said["sha256"]
    assert {f"licenses/{name}.txt" for name in ("native-llm", "musl", "libcxx", "pytorch", "pcre2")} <= names
    assert not [name for name in names if name.endswith((".so", ".o"))]


def test_single_files_have_the_same_bytes(folder, single, tmp_path):
    pack(folder / "static.pt2", "--single-file", "-o", tmp_path / "single")
    assert (tmp_path / "single").read_bytes() == single.read_bytes()
    assert str(ROOT).encode() not in single.read_bytes()


def test_one_hash_on_every_system(folder, single, tmp_path):
    """glibc and musl, x86-64 and three emulated CPUs of Arm."""
    emulator = shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("qemu-aarch64-static is not here: apt-get install qemu-user-static")
    pack(folder / "static.pt2", "--single-file", "--target", "android", "-o", tmp_path / "arm")
    with zipfile.ZipFile(tmp_path / "arm") as archive:
        assert json.loads(archive.read("MANIFEST.json"))["self_test"]["on"] == "emulated aarch64"
    commands = [[AOTI_RUN, folder / "static.pt2"], [single]]
    commands += [[emulator, "-cpu", cpu, tmp_path / "arm"] for cpu in ("cortex-a72", "cortex-a76", "max")]
    logits = []
    for words in commands:
        out = tmp_path / "logits.npy"
        subprocess.run([*words, "--tokens", "5,6,7,8", "--logits-out", out], check=True, capture_output=True)
        logits.append(np.load(out).tobytes())
        assert subprocess.run([*words, "--self-test"], capture_output=True).returncode == 0
    assert len(set(logits)) == 1


def test_code_of_macos_is_refused_here(folder, tmp_path, capsys):
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--target", "arm64-macos",
           "--output-aoti-package", tmp_path / "mac.pt2")  # fmt: skip
    with zipfile.ZipFile(tmp_path / "mac.pt2") as archive:
        code = archive.read(next(name for name in archive.namelist() if name.endswith("model.so")))
        said = json.loads(archive.read("model/data/aotinductor/model/model_metadata.json"))
    assert code[:4] == b"\xcf\xfa\xed\xfe"  # Mach-O, 64-bit, little-endian
    assert "aoti_torch_cpu_attention" in said["host_functions"] and said["runtime"] == "lean"
    done = subprocess.run([AOTI_RUN, tmp_path / "mac.pt2"], capture_output=True, text=True)
    assert done.returncode == 1 and "needs a machine of aarch64-macos" in done.stderr


def test_what_is_no_program_of_one_file(folder, single, tmp_path):
    with pytest.raises(ValueError, match="cannot be mapped by pages of 65536"):
        put_in(AOTI_RUN, folder / "static.pt2", tmp_path / "out")
    data = single.read_bytes()
    (tmp_path / "no note").write_bytes(data.replace(b"native-llm\0\0", b"another..\0\0\0", 1))
    with pytest.raises(ValueError, match="has no note for an artifact"):
        put_in(tmp_path / "no note", folder / "static.pt2", tmp_path / "out")


def test_a_signature_belongs_to_its_program(folder, tmp_path):
    pair = minisign.KeyPair.generate()
    (tmp_path / "key").write_bytes(bytes(pair.secret_key))
    output = tmp_path / "m"
    for _ in range(2):
        pack(folder / "static.pt2", "--single-file", "--sign", tmp_path / "key", "-o", output)
        pair.public_key.verify(output.read_bytes(), minisign.Signature.from_file(f"{output}.minisig"))
    pack(folder / "static.pt2", "--single-file", "-o", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "m"]
    done = subprocess.run([output, "--require-signature", tmp_path / "key"], capture_output=True, text=True)
    assert done.returncode == 2 and "minisign -V" in done.stderr
    done = subprocess.run([output, "--help"], capture_output=True, text=True)
    assert "--require-signature" not in done.stdout and "--self-test" in done.stdout


def test_killed_at_any_time(folder, single, tmp_path):
    end_packs([folder / "static.pt2", "--single-file"], single, tmp_path, 10)


def test_licences_are_those_of_what_is_linked(single):
    with zipfile.ZipFile(single) as archive:
        for name in archive.namelist():
            if name.startswith("licenses/"):
                assert len(archive.read(name)) > 500, Path(name).name
