"""`pack`: a bundle has all that its runner needs, says so truly, and is written whole or not at all."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import tiny
from changed_package import changed, with_metadata, without_self_test
from ended_packs import end_packs
from native import ET_RUN, ROOT, aoti_metadata, export

from exporter.cli import main as cli
from exporter.lower.targets import baseline, this_machine
from exporter.lower.zig import ZIG_VERSION
from exporter.pack import bundle, runner_files
from exporter.pack.elf_needs import read_needs, version_key
from exporter.pack.request import PackRequest
from exporter.pack.targets import BUNDLE_TARGETS, BundleTarget, build_folder, find_target, target_of

RUN = ("--tokens", "5,6,7", "-t", "0", "-n", "8", "--ignore-eos")
HERE = target_of(this_machine()).name
ELSEWHERE = next(target for target in BUNDLE_TARGETS if target.machine != this_machine())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    tiny.make_hf(folder / "m", "llama3.1")
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--output-pte", folder / "m.pte",
           "--output-aoti-package", folder / "m.pt2", "--output-dso", folder / "m.so")  # fmt: skip
    export(folder / "m", "--delegate", "stock", "--max-seq-length", 64,
           "--output-pte", folder / "stock.pte")  # fmt: skip
    return folder


def pack(*arguments: object) -> None:
    assert cli.main(["pack", *map(str, arguments), "--no-verify"]) == 0


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["pack", *map(str, arguments)]) != 0
    return capsys.readouterr().err.splitlines()[-1]


def unpacked(archive: Path, to: Path) -> Path:
    if archive.suffix == ".zip":
        subprocess.run([sys.executable, "-m", "zipfile", "-e", archive, to], check=True)
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                (to / info.filename).chmod(info.external_attr >> 16 & 0o777)
    else:
        with tarfile.open(archive) as file:
            file.extractall(to)
    (top,) = to.iterdir()
    return top


def sizes(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("model", ["m.pte", "m.pt2", "m.so", "stock.pte"])
@pytest.mark.parametrize("ending", ["", ".tar.gz", ".tgz", ".zip"])
def test_a_bundle_runs_elsewhere(folder, tmp_path, model, ending):
    out = tmp_path / f"out of it{ending}"
    pack(folder / model, "-o", out)
    top = unpacked(out, tmp_path / "there") if ending else out.rename(tmp_path / "moved")
    assert ending == "" or top.name == "out of it"
    program = "et_run" if model.endswith(".pte") else "aoti_run"
    expected = subprocess.run([ET_RUN.with_name(program), folder / model, *RUN], capture_output=True)
    link = tmp_path / "a link"
    link.symlink_to(top / "run.sh")
    assert subprocess.run([link, *RUN], capture_output=True).stdout == expected.stdout
    done = subprocess.run([top / "run.sh", *RUN], env={"PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True)
    assert done.returncode == 0 and done.stdout == expected.stdout, done.stderr
    assert subprocess.run([top / "run.sh", "--self-test"], capture_output=True).returncode == 0

    manifest = json.loads((top / "MANIFEST.json").read_text())
    assert manifest["files"].keys() == sizes(top).keys() - {"MANIFEST.json"}
    for name, said in manifest["files"].items():
        data = (top / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (said["bytes"], said["sha256"])
    assert manifest["target"] == HERE and manifest["verify"] == "not run"
    assert manifest["self_test"]["passed"] and manifest["self_test"]["on"] == this_machine()
    assert ("lib/libet_stock.so" in manifest["files"]) == (model == "stock.pte")
    assert ("licenses/executorch.txt" in manifest["files"]) == (program == "et_run")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_nothing_of_this_machine_is_in_it(folder, tmp_path):
    pack(folder / "m.pte", "-o", tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file() and path.suffix != ".pte":
            assert str(ROOT).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_the_same_bytes_every_time(folder, tmp_path, ending):
    outputs = [tmp_path / part / f"b{ending}" for part in ("one", "two")]
    for output in outputs:
        output.parent.mkdir()
        pack(folder / "m.pte", "-o", output)
        time.sleep(1.1)  # so that a time in it would be another
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_needs_are_those_that_binutils_says(folder):
    needs = read_needs(ET_RUN.read_bytes(), "et_run")
    said = subprocess.run(["readelf", "-W", "-d", "-V", "-l", ET_RUN], capture_output=True, text=True).stdout
    assert sorted(needs.libraries) == sorted(re.findall(r"\(NEEDED\).*\[(.*)\]", said))
    glibc = {v for v in re.findall(r"Name: GLIBC_([\d.]+)", said)}
    assert needs.versions["GLIBC"] == max(glibc, key=version_key) and needs.machine == this_machine()
    assert needs.alignment == min(int(n, 16) for n in re.findall(r"LOAD .* (0x\w+)$", said, re.MULTILINE))


def test_what_is_no_program():
    whole = ET_RUN.read_bytes()
    no_sections = whole[:0x28] + bytes(8) + whole[0x30:0x3A] + bytes(6) + whole[0x40:]
    for data in (b"", b"\x7fELF", b"\x7fELF" + bytes(60), whole[:500], no_sections):
        with pytest.raises(ValueError, match="x is no readable program"):
            read_needs(data, "x")


def test_what_cannot_be_packed(folder, tmp_path, capsys, monkeypatch):
    pte, out = folder / "m.pte", tmp_path / "b"
    line = refused(capsys, pte, "-o", out, "--target", "raspbery-pi-5")
    assert "did you mean raspberry-pi-5" in line
    line = refused(capsys, folder / "m.pt2", "-o", out, "--target", ELSEWHERE.name)
    assert f"none for {ELSEWHERE.machine}" in line and "--target" in line
    torch = tmp_path / "torch.pt2"
    with_metadata(folder / "m.pt2", torch, runtime="torch")
    assert "libtorch" in refused(capsys, torch, "-o", out)
    good = {"machine": this_machine(), "cpu_features": [], "folder": "model"}
    for wrong in (5, {}, {**good, "cpu_features": 5}, {**good, "machine": 5}, {**good, "cpu_features": [5]},
                  {**good, "folder": 5}):  # fmt: skip
        with_metadata(folder / "m.pt2", torch, targets=[wrong])
        assert "export it again" in refused(capsys, torch, "-o", out)
    for name in (".zip", "..zip", "...tar.gz", "b.ZIP", "b.tar", "b.tar.xz", "b.Tar.GZ"):
        line = refused(capsys, pte, "-o", tmp_path / name)
        assert "put one before" in line or "archives end in .tar.gz, .tgz, .zip" in line
    same = tmp_path / "model.zip"
    shutil.copy(folder / "m.pt2", same)
    assert "is the artifact itself" in refused(capsys, same, "-o", same)
    older = tmp_path / "older.pt2"
    changed(folder / "m.pt2", older, without_self_test)
    assert "has no self-test" in refused(capsys, older, "-o", out)
    with_metadata(folder / "m.pt2", torch, quantization="{")
    assert "is no recipe" in refused(capsys, torch, "-o", out)
    assert "no such folder" in refused(capsys, pte, "-o", tmp_path / "none" / "b.zip")
    assert "is there already" in refused(capsys, pte, "-o", tmp_path)
    assert "does not exist" in refused(capsys, tmp_path / "none.pte", "-o", out)
    (tmp_path / "text.pte").write_text("text" * 100)
    assert "is no artifact" in refused(capsys, tmp_path / "text.pte", "-o", out)
    assert "--checkpoint" in refused(capsys, pte, "-o", out, "--no-verify", "--checkpoint", "m")
    monkeypatch.setattr(runner_files, "ROOT", tmp_path)
    assert "et_run is not built" in refused(capsys, pte, "-o", out)
    line = refused(capsys, pte, "-o", out, "--target", "android")
    assert "no et_run for linux-aarch64-musl" in line and "--output-aoti-package" in line
    needing = {"name": "x86-64-v3", "machine": this_machine(), "cpu_features": ["avx9"], "folder": "model"}
    with_metadata(folder / "m.pt2", torch, targets=[needing])
    line = refused(capsys, torch, "-o", out, "--target", f"{HERE}-musl")
    assert "--single-file" in line
    line = refused(capsys, folder / "m.pt2", "-o", out, "--single-file")
    assert f"none for {this_machine()}-static; export it with --target" in line
    assert "cannot be a single file" in refused(capsys, pte, "-o", out, "--single-file")
    line = refused(capsys, folder / "m.pt2", "-o", tmp_path / "b.zip", "--single-file")
    assert f"none for {this_machine()}-static" in line
    line = refused(capsys, folder / "m.pt2", "-o", out, "--single-file", "--target", f"{HERE}-glibc2.17")
    assert f"take --target {HERE}" in line
    assert not out.exists()


def test_a_target_with_larger_pages(folder, tmp_path):
    here = target_of(this_machine())
    large = BundleTarget("large", here.machine, 1 << 24, here.preset, here.programs)
    with pytest.raises(ValueError, match="bin/et_run cannot be mapped where pages have 16777216 bytes"):
        bundle.pack(PackRequest(folder / "m.pte", large, tmp_path / "b"))
    assert not list(tmp_path.iterdir())


def test_a_failed_self_test_is_not_packed(folder, tmp_path, capsys):
    stored = json.loads(aoti_metadata(folder / "m.pt2")["self_test"])
    stored["logits"][0]["crc32"] ^= 1
    with_metadata(folder / "m.pt2", tmp_path / "wrong.pt2", self_test=stored)
    line = refused(capsys, tmp_path / "wrong.pt2", "-o", tmp_path / "b.zip", "--no-verify")
    assert "fails its self-test: the logits of prompt 1 have other bits" in line
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.pt2"]


def test_the_verdict_of_verify_is_in_the_manifest(folder, tmp_path, capsys):
    assert cli.main(["pack", str(folder / "m.pte"), "-o", str(tmp_path / "b"),
                     "--checkpoint", str(folder / "m")]) == 0  # fmt: skip
    verdict = json.loads((tmp_path / "b" / "MANIFEST.json").read_text())["verify"]
    assert verdict["passed"] and "mean KL" in verdict["checks"]
    assert str(folder) not in json.dumps(verdict)
    tiny.make_hf(tmp_path / "other", "llama3")
    line = refused(capsys, folder / "m.pte", "-o", tmp_path / "c", "--checkpoint", tmp_path / "other")
    assert line.startswith("error: not packed: ") and not (tmp_path / "c").exists()


def test_killed_at_any_time(folder, tmp_path):
    """Whatever lies at the final name is a whole bundle; an ended one leaves nothing at all."""
    whole = tmp_path / "whole.zip"
    pack(folder / "m.pte", "-o", whole)
    end_packs([folder / "m.pte"], whole, tmp_path, 24)


def test_another_machine_is_told(folder, tmp_path):
    """A 32-bit system on a 64-bit kernel has no loader for the program: the shell would say "not found"."""
    pack(folder / "m.pte", "-o", tmp_path / "b")
    commands = tmp_path / "bin"
    commands.mkdir()
    for said in ("echo 32", "exit 1"):
        for name, text in {"getconf": said, "uname": "echo armv7l"}.items():
            (commands / name).write_text(f"#!/bin/sh\n{text}\n")
            (commands / name).chmod(0o755)
        done = subprocess.run([tmp_path / "b" / "run.sh", *RUN], capture_output=True, text=True,
                              env={"PATH": f"{commands}:/usr/bin:/bin"})  # fmt: skip
        assert done.returncode == 1 and not done.stdout
        assert f"this is for 64-bit {this_machine()}, and this system is of 32 bits" in done.stderr


def test_targets():
    assert find_target("raspberry-pi-5").name == "linux-aarch64"
    with pytest.raises(ValueError, match="riscv64"):
        target_of("riscv64")
    names = [name for target in BUNDLE_TARGETS for name in (target.name, *target.boards)]
    assert len(names) == len(set(names))
    presets = json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]
    builds = {each["name"]: each["binaryDir"] for each in presets if "binaryDir" in each}
    used = {preset for target in BUNDLE_TARGETS for preset in (target.preset, target.single_file) if preset}
    for preset in used:
        assert builds[preset] == f"${{sourceDir}}/{build_folder(preset)}"
    cross = re.search(r'"ziglang==(.*)"', (ROOT / "pyproject.toml").read_text()).group(1)
    assert cross == ZIG_VERSION
    assert baseline() in ("x86-64", "aarch64")
