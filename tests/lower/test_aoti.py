"""The lean runtime of AOTInductor: what is in an artifact, what it runs on, and what is refused."""

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest
import tiny
import torch
from changed_package import changed, with_metadata
from elftools.elf.elffile import ELFFile
from native import AOTI_RUN, METADATA, ROOT, TORCH_RUN, aoti_metadata, export, logits, run

from exporter.lowbit import ops
from exporter.lowbit.state import LayerLayout, State, StateLayout
from exporter.lower.aoti_functions import called_functions, host_functions, not_covered
from exporter.lower.cxx_compiler import find_compiler
from exporter.lower.pt2_package import ALIGNMENT
from exporter.lower.targets import NATIVE, baseline, find_targets
from exporter.model.rotation import Rotation

CONTEXT = 64
TOKENS = list(range(5, 25))
CODE = "model/data/aotinductor/{}/model.so"
WEIGHTS = "model/data/aotinductor/model/model_weights.blob"
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1"}
# This machine runs both; the second asks for what its CPU has.
TARGETS = f"{baseline()},{NATIVE}"
OTHER = "aarch64" if baseline() != "aarch64" else "x86-64"
CLANG = next((name for name in ("clang++", *(f"clang++-{n}" for n in range(21, 13, -1)))
              if shutil.which(name)), None)  # fmt: skip
RELOAD_TOOL = ROOT / "cmake-out" / "tests" / "reload_tool"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_hf(folder, "llama3")
    return folder


@pytest.fixture(scope="module")
def lean(folder, tmp_path_factory):
    """A q4 package for two targets."""
    package = tmp_path_factory.mktemp("lean") / "m.pt2"
    export(folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--target", TARGETS,
           "--output-aoti-package", package)  # fmt: skip
    return package


@pytest.fixture(scope="module")
def stock(folder, tmp_path_factory):
    package = tmp_path_factory.mktemp("stock") / "m.pt2"
    export(folder, "--max-seq-length", CONTEXT, "--delegate", "stock",
           "--output-aoti-package", package)  # fmt: skip
    return package


def refused(artifact, *words: str) -> None:
    result = run(AOTI_RUN, artifact, "--tokens", "1,2", "-n", 1)
    assert result.status == 1
    for word in (artifact.name, *words):
        assert word in result.error_line()


def test_the_runner_needs_system_libraries_alone(tmp_path):
    with AOTI_RUN.open("rb") as file:
        elf = ELFFile(file)
        by_clang = b"clang" in elf.get_section_by_name(".comment").data()
        dynamic = elf.get_section_by_name(".dynamic")
        needed = {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")}
    assert {name for name in needed if not name.startswith("ld-linux")} <= SYSTEM_LIBRARIES
    stripped = tmp_path / "aoti_run"
    subprocess.run(["strip", AOTI_RUN, "-o", stripped], check=True)
    assert stripped.stat().st_size <= (2e6 if by_clang else 1.85e6)


def test_the_exporter_knows_the_host():
    """Each function that the exporter counts on, and no other of the interface."""
    ops.load()
    with AOTI_RUN.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        exported = {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"}
    assert {name for name in exported if name.startswith("aoti_torch")} == host_functions()


def test_the_archive_is_mapped_and_pytorch_reads_it(lean):
    metadata = aoti_metadata(lean)
    assert metadata["runtime"] == "lean"
    assert set(json.loads(metadata["host_functions"])) <= host_functions()
    with zipfile.ZipFile(lean) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        info = archive.getinfo(WEIGHTS)
        names = [name for name in archive.namelist() if name.endswith("/model.so")]
        assert archive.testzip() is None
    assert names == [CODE.format("model"), CODE.format(f"model-{NATIVE}")]
    data = lean.read_bytes()
    name_length, extra_length = struct.unpack_from("<HH", data, info.header_offset + 26)
    start = info.header_offset + 30 + name_length + extra_length
    assert start % ALIGNMENT == 0
    for weight in json.loads(metadata["weights"]):
        if weight["name"].endswith("weight") and weight["dtype"] == "uint8":
            assert data[start + weight["offset"] :][:8] == b"LOWBITW\0", weight["name"]


def test_the_same_bits_as_under_libtorch(lean, tmp_path):
    """Of prefill, of decoding, and of PyTorch's own loader in Python."""
    expected = logits(lean, TOKENS, tmp_path)
    ids = ",".join(map(str, TOKENS))
    text = run(AOTI_RUN, lean, "--tokens", ids, "-t", 0, "-n", 20, "--ignore-eos").text
    out = tmp_path / "torch.npy"
    under_torch = run(TORCH_RUN, lean, "--tokens", ids, "-t", 0, "-n", 20, "--ignore-eos",
                      "--logits-out", out)  # fmt: skip
    assert under_torch.status == 0 and under_torch.text == text
    assert np.array_equal(np.load(out), expected)

    ops.load()
    model = torch._inductor.aoti_load_package(str(lean))
    metadata = aoti_metadata(lean)
    said = json.loads(metadata["state"])
    layout = StateLayout(
        tuple(LayerLayout(**layer) for layer in said["layers"]),
        tuple(map(Rotation.from_json, said["frequencies"])),
    )
    state = State(layout, CONTEXT, metadata["cache_dtype"])
    segments = torch.tensor([[state.open(), len(TOKENS)]])
    with state.forward(segments):
        actual = model(torch.tensor([TOKENS]), segments, torch.arange(len(TOKENS)), state.tensor)
    assert np.array_equal(actual.numpy(), expected)


def test_a_library_holds_its_weights(folder, lean, tmp_path):
    library = tmp_path / "m.so"
    export(folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-dso", library)
    assert np.array_equal(logits(library, TOKENS, tmp_path), logits(lean, TOKENS, tmp_path))
    subprocess.run(["strip", library], check=True)
    assert np.array_equal(logits(library, TOKENS, tmp_path), logits(lean, TOKENS, tmp_path))
    result = run(TORCH_RUN, library, "--tokens", "1,2", "-n", 1)
    assert result.status == 1 and "lean" in result.error_line()


def test_the_best_target_is_taken(lean, tmp_path):
    """A target that does not run is not looked at; the one that asks for more is preferred."""
    targets = json.loads(aoti_metadata(lean)["targets"])
    assert [target["name"] for target in targets] == TARGETS.split(",")
    assert targets[1]["cpu_features"], "this CPU has no feature that the exporter knows"
    for dropped, runs in (("model", True), (f"model-{NATIVE}", False)):
        path = tmp_path / f"{dropped}.pt2"
        changed(lean, path, lambda name, data, gone=dropped: (
            None if name == CODE.format(gone) else data
        ))  # fmt: skip
        if runs:
            logits(path, TOKENS, tmp_path)
        else:
            refused(path, f"no code for {NATIVE}")
    foreign = tmp_path / "foreign.pt2"
    other = {"name": "z80", "machine": "z80", "cpu_features": [], "folder": "model"}
    with_metadata(lean, foreign, targets=[{**targets[1], "cpu_features": ["avx9"]}, other])
    refused(foreign, f"{NATIVE} needs avx9", "z80 needs a machine of z80", "--target")


def test_damaged_archives(lean, tmp_path):
    path = tmp_path / "broken.pt2"

    for name in (METADATA, CODE.format(f"model-{NATIVE}"), "model/tokenizer/table"):
        whole = lean.read_bytes()
        with zipfile.ZipFile(lean) as archive:
            info = archive.getinfo(name)
        at = whole.index(archive_bytes(lean, name), info.header_offset) + 100
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(path, "damaged")
    for name, word in ((METADATA, "without a compiled model"), ("model/tokenizer/table", "tokenizer"),
                       (WEIGHTS, "weight")):  # fmt: skip
        changed(lean, path, lambda n, data, gone=name: None if n == gone else data)
        refused(path, word)
    weights = json.loads(aoti_metadata(lean)["weights"])
    size = len(archive_bytes(lean, WEIGHTS))
    name = weights[0]["name"]
    for key, value, words in (
        ("offset", size + 64, [name, "beyond the end"]),
        ("shape", [size + 1], [name, "beyond the end"]),
        ("dtype", "int8", [name, "another form"]),
        ("shape", [1], [name, "another form"]),
        ("name", "other", [name, "not there"]),
    ):
        with_metadata(lean, path, weights=[{**weights[0], key: value}, *weights[1:]])
        refused(path, *words)
    layers = int(aoti_metadata(lean)["n_layers"])
    with_metadata(lean, path, n_layers=layers + 1)
    refused(path, "'state'", "export")
    state = json.loads(aoti_metadata(lean)["state"])
    state["layers"][1]["kv_heads"] *= 2
    with_metadata(lean, path, state=state)
    refused(path, "layer 1", "key/value heads", "export")
    state["layers"].pop()
    with_metadata(lean, path, n_layers=layers - 1, state=state)
    refused(path, "layer 1 came where layer 1 of 1 was next", "export")
    with zipfile.ZipFile(lean) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for info in old.infolist():  # of other lengths, by somebody who does not align
            packed.writestr(info.filename + "?" * (not info.filename.startswith("model/data")),
                            old.read(info))  # fmt: skip
        packed.writestr("model/tokenizer/table", old.read("model/tokenizer/table"))
    refused(path, "uneven place")
    changed(lean, path, lambda name, data: b"no code" if name.endswith("/model.so") else data)
    refused(path, "cannot be loaded")


def archive_bytes(package, name: str) -> bytes:
    with zipfile.ZipFile(package) as archive:
        return archive.read(name)


def test_missing_functions_are_named(lean, stock, tmp_path):
    called = json.loads(aoti_metadata(lean)["host_functions"])
    path = tmp_path / "more.pt2"
    with_metadata(lean, path, host_functions=[*called, "aoti_torch_cpu_fft"])
    refused(path, "aoti_torch_cpu_fft", "newer runner")
    with_metadata(lean, path, host_interface="2.99/1")
    refused(path, "2.99/1", f"2.13/{ops.interface_version()}", "runner of that release")
    with_metadata(lean, path, runtime="torch")
    refused(path, "--runtime lean")
    assert aoti_metadata(stock)["runtime"] == "torch"
    missing = json.loads(aoti_metadata(stock)["host_functions"])
    assert any("addmm" in name or "mm_out" in name for name in missing)
    refused(stock, missing[0], "libtorch", "--delegate lowbit")
    assert logits(stock, TOKENS, tmp_path).shape == (len(TOKENS), tiny.VOCAB)


def test_what_a_library_calls(lean, tmp_path):
    code = tmp_path / "model.so"
    code.write_bytes(archive_bytes(lean, CODE.format("model")))
    called = called_functions(code)
    assert "aoti_torch_cpu_attention" in called and not_covered(called) == ()
    assert not_covered(("aoti_torch_cpu_fft", "aoti_torch_clone")) == ("aoti_torch_cpu_fft",)
    code.write_bytes(b"no library")
    with pytest.raises(ValueError, match="not a shared library"):
        called_functions(code)


def test_a_thousand_loads_leave_nothing(lean):
    done = subprocess.run([RELOAD_TOOL, lean, "1000"], capture_output=True, text=True, check=True)
    (_, early, early_maps), (_, late, late_maps) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    # Less than 1 KiB a load: a handle or a page left behind each time would be more.
    assert late - early < 900 * 1024 and late_maps <= early_maps + 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", TARGETS, "--output-dso"), ["one target", ".pt2"]),
        (("--target", "x86-64,x86-64", "--output-aoti-package"), ["x86-64 twice"]),
        (("--target", "", "--output-aoti-package"), ["empty"]),
        (("--delegate", "stock", "--target", TARGETS, "--output-aoti-package"),
         ["--delegate lowbit"]),
        (("--delegate", "stock", "--target", OTHER, "--output-aoti-package"),
         ["--delegate lowbit"]),
        (("--delegate", "stock", "--runtime", "lean", "--output-aoti-package"),
         ["--runtime lean", "aten.linear", "--delegate lowbit"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(arguments, words, folder, tmp_path, capsys):
    from exporter.cli import main as cli

    suffix = ".so" if arguments[-1] == "--output-dso" else ".pt2"
    out = tmp_path / f"m{suffix}"
    status = cli.main([str(folder), "--max-seq-length", str(CONTEXT), *arguments, str(out)])
    line = capsys.readouterr().err.splitlines()[-1]
    assert status in (1, 2) and line.startswith("error: ")
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())


def test_the_compiler_is_asked_for_in_words(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=f"--target {OTHER} needs the compiler .*apt-get install"):
        find_compiler(find_targets(OTHER)[0])
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(ValueError, match="the compiler ccache,"):
        find_compiler(find_targets(baseline())[0])
    assert find_targets(baseline())[0].cpu_features == ()


def test_another_compiler_in_several_words_where_paths_have_spaces(lean, folder, tmp_path):
    """clang, which has other options, where it is here; the numbers are the same. In a process of its own:
    Inductor keeps what it finds out of the first compiler."""
    temporary = tmp_path / "temporary files"
    temporary.mkdir()
    package = tmp_path / "a model.pt2"
    words = [folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-aoti-package", package]
    subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, words)], cwd=ROOT, check=True, capture_output=True,
        env={**os.environ, "TMPDIR": str(temporary), "CXX": f"env {CLANG or 'g++'}"},
    )  # fmt: skip
    assert np.array_equal(logits(package, TOKENS, tmp_path), logits(lean, TOKENS, tmp_path))
    assert not list(temporary.glob("exporter-*"))


@pytest.mark.skipif(
    OTHER != "aarch64" or shutil.which("aarch64-linux-gnu-g++") is None,
    reason="no cross compiler is here: apt-get install g++-aarch64-linux-gnu",
)
def test_code_for_arm_beside_ours(folder, lean, tmp_path):
    package = tmp_path / "both.pt2"
    export(folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--target", "aarch64,x86-64",
           "--output-aoti-package", package)  # fmt: skip
    code = archive_bytes(package, CODE.format("model"))
    assert struct.unpack_from("<H", code, 18)[0] == 183  # EM_AARCH64
    assert archive_bytes(package, WEIGHTS) == archive_bytes(lean, WEIGHTS)
    assert np.array_equal(logits(package, TOKENS, tmp_path), logits(lean, TOKENS, tmp_path))


def test_the_tokenizer_is_the_table(lean, folder, tmp_path):
    """The archive has it raw, a library's metadata in base64: the same bytes."""
    library = tmp_path / "m.so"
    export(folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-dso", library)
    encoded = aoti_metadata(library)["tokenizer"]
    assert base64.b64decode(encoded) == archive_bytes(lean, "model/tokenizer/table")


def test_the_same_bytes_and_no_path_of_this_machine(folder, tmp_path):
    packages = [tmp_path / f"{name}.pt2" for name in ("one", "two")]
    for package in packages:
        export(folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-aoti-package", package)
    assert packages[0].read_bytes() == packages[1].read_bytes()
    for place in (str(ROOT), f"{tempfile.gettempdir()}/exporter-", "site-packages"):
        assert place.encode() not in packages[0].read_bytes()
