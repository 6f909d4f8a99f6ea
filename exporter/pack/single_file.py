"""Make a program of one file: the runner and a model's code, linked statically, with the artifact in it.

The artifact is a segment of the program, which the system maps when the program starts: no file is opened.
Its archive comes last, so that zip tools read the whole file as one: `unzip -p FILE MANIFEST.json`.
"""

import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

from exporter.artifact.contents import Artifact
from exporter.artifact.stored_zip import add_stored
from exporter.lower.targets import STATIC
from exporter.lower.zig import find_zig
from exporter.pack.bundle import folder_beside
from exporter.pack.bundle_needs import compiled_codes
from exporter.pack.manifest import MANIFEST, Facts, manifest_text, sha256_of_stream
from exporter.pack.request import PackRequest, check_request
from exporter.pack.runner_files import install_component
from exporter.pack.self_test import NOT_RUN, run_self_test
from exporter.pack.targets import BundleTarget
from exporter.util.files import check_disk_full, written_whole
from exporter.util.progress import stage

_NOTE = b"native-llm\0\0"  # of runner/backends/aoti_host/host_in_single_file.cpp
_NOTE_HEADER = 12  # bytes before the name: the sizes of name and data, and a type
_PAGE = 65536  # the largest that any target has
_LOAD, _READABLE = 1, 4  # PT_LOAD and PF_R of the ELF specification
# In the order of linking.
_LIBRARIES = ("single_file", "runner_app", "runner_core", "lowbit_kernels", "pcre2-8", "sodium_verify")
_ALIGNMENT = 16384  # as in the .pt2


def pack_single_file(request: PackRequest) -> None:
    """Write the program of `request`, whole or not at all.

    Raises ValueError or OSError where the artifact cannot be packed for the target or the output not be
    written, as the request's `verify`, and where the linker or the self-test fails.
    """
    artifact = check_request(request)
    zig = find_zig("--single-file")
    verdict = NOT_RUN if request.verify is None else request.verify()
    target = request.target
    with folder_beside(request.output) as folder:
        with stage(f"linking for {target.name}"):
            linked = _link(folder, artifact, target, zig)
            archive = folder / "model.zip"
            _write_archive(archive, artifact, folder / "installed" / "share" / "licenses")
        with stage("running the self-test"):
            tried = folder / "tried"
            put_in(linked, archive, tried)
            self_test = run_self_test([tried], target.machine, own_libraries=True)
            tried.unlink()
        with stage(f"writing {request.output}"):
            needs = {"machine": target.machine, "largest_page_bytes": _PAGE, "libraries": []}
            facts = Facts(artifact, request.output.name, target, needs, verdict, self_test)
            text = manifest_text(facts, _described(archive))
            with zipfile.ZipFile(archive, "a") as file:
                data = text.encode("utf-8", "backslashreplace")
                add_stored(file, MANIFEST, len(data), [data], 1)
            with written_whole(request.output) as part:
                put_in(linked, archive, part)
                if request.signer:
                    request.signer.sign(part, request.output.name)
                    signature = part.with_name(f"{part.name}.minisig").rename(folder / "signature")
                _signature_of(request.output).unlink(missing_ok=True)  # of what was there before
            if request.signer:
                os.replace(signature, _signature_of(request.output))


def _signature_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.minisig")


def _link(folder: Path, artifact: Artifact, target: BundleTarget, zig: tuple[str, ...]) -> Path:
    installed, code, linked = folder / "installed", folder / "model.o", folder / "linked"
    for component in ("runners", "single_file"):  # of the first there are licences alone
        install_component(target.single_file, component, installed)
    machine = target.machine + STATIC
    place = next(code.folder for code in compiled_codes(artifact) if code.machine == machine)
    with zipfile.ZipFile(artifact.path) as archive:
        name = next(n for n in archive.namelist() if n.endswith(f"data/aotinductor/{place}/model.o"))
        code.write_bytes(archive.read(name))
    libraries = [installed / "single_file" / f"lib{name}.a" for name in _LIBRARIES]
    # -Os also chooses how zig compiles its C and C++ libraries.
    words = [*zig, "c++", "-target", f"{target.machine}-linux-musl", "-static", "-s", "-Os",
             "-Wl,--gc-sections", "-Wl,-z,max-page-size=65536", code, *libraries, "-o", linked]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        check_disk_full(done.stderr, folder)
        first = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
        raise ValueError(f"zig cannot link {artifact.path}: {first.strip()}; export it again")
    return linked


def _write_archive(path: Path, artifact: Artifact, licenses: Path) -> None:
    """Write the artifact's archive without code, which is linked, and with the licences."""
    codes = tuple(f"data/aotinductor/{code.folder}/" for code in compiled_codes(artifact))
    with zipfile.ZipFile(artifact.path) as source, zipfile.ZipFile(path, "w") as out:
        for info in source.infolist():
            if info.filename.endswith((".so", ".o")) and any(place in info.filename for place in codes):
                continue
            with source.open(info) as file:
                pieces = iter(lambda file=file: file.read(1 << 22), b"")
                add_stored(out, info.filename, info.file_size, pieces, _ALIGNMENT)
        for file in sorted(licenses.iterdir()):
            data = file.read_bytes()
            add_stored(out, f"licenses/{file.name}", len(data), [data], 1)


def _described(archive: Path) -> dict[str, dict[str, object]]:
    """Return the size and SHA-256 of each file of an archive, as a manifest has them."""
    found = {}
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            with source.open(info) as file:
                found[info.filename] = {"bytes": info.file_size, "sha256": sha256_of_stream(file)}
    return found


def put_in(program: Path, archive: Path, output: Path) -> None:
    """Write `program` with `archive` as a segment of its own behind everything else, where its note says.

    Raises ValueError when the program has no such note or cannot be mapped by pages of 64 KiB.
    """
    data = bytearray(program.read_bytes())
    with program.open("rb") as file:
        elf = ELFFile(file)
        segments = list(elf.iter_segments())
        loads = [s for s in segments if s["p_type"] == "PT_LOAD"]
        start, size = elf.header["e_phoff"], elf.header["e_phentsize"]
    if min(load["p_align"] for load in loads) < _PAGE:
        raise ValueError(f"{program.name} cannot be mapped by pages of {_PAGE} bytes")
    header = note = 0
    for i, segment in enumerate(segments):
        at = segment["p_offset"] + _NOTE_HEADER
        if segment["p_type"] == "PT_NOTE" and data[at : at + len(_NOTE)] == _NOTE:
            header, note = start + i * size, at + len(_NOTE)
    if not note:
        raise ValueError(f"{program.name} has no note for an artifact; build it again")
    offset = len(data) + -len(data) % _ALIGNMENT
    # As far into a page as in the file: the system maps whole pages of it.
    address = _page_end(max(load["p_vaddr"] + load["p_memsz"] for load in loads)) + offset % _PAGE
    length = archive.stat().st_size
    # Elf64_Phdr: type, flags, offset, address, physical address, size in the file, in memory, alignment.
    fields = (_LOAD, _READABLE, offset, address, address, length, length, _PAGE)
    struct.pack_into("<IIQQQQQQ", data, header, *fields)
    struct.pack_into("<QQ", data, note, address, length)
    with output.open("wb") as out, archive.open("rb") as source:
        out.write(data)
        out.write(bytes(offset - len(data)))
        shutil.copyfileobj(source, out, 1 << 22)
        os.fchmod(out.fileno(), 0o755)


def _page_end(place: int) -> int:
    return place + -place % _PAGE
