"""Makes what the contenders run, in a work folder, and leaves alone what is there already."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.command_line import ROOT, note
from scripts.bench.contenders import MODELS, Artifact, Model
from scripts.bench.scheme_table import OUTPUT_FLAGS

LLAMA_BIN = ROOT / ".deps" / "llama.cpp-build" / "bin"
BUILT = ROOT / "cmake-out"
RUNNERS = {
    "et": BUILT / "et_run",
    "aoti": BUILT / "aoti_run",
    "torch": BUILT / "tests" / "aoti_run_torch",
}
BASE = "BF16"  # the GGUF that the others are quantized from


@dataclass(frozen=True)
class Prepared:
    """An artifact that is there. `seconds` is how long its export took, None for a GGUF."""

    path: Path
    seconds: float | None


def build_runners() -> None:
    if not all(runner.is_file() for runner in RUNNERS.values()):
        call("build_native.sh", [str(ROOT / "scripts" / "build_native.sh")])
        cmake = str(ROOT / ".venv" / "bin" / "cmake")
        call("cmake", [cmake, "--build", str(BUILT), "--target", "aoti_run_torch"])


def build_llama_cpp() -> None:
    call("build_llama_cpp.sh", [str(ROOT / "scripts" / "build_llama_cpp.sh")])


def prepare(artifact: Artifact, folder: Path, reuse: bool) -> Prepared:
    """Makes the artifact where it is missing, or, unless `reuse`, older than the exporter's code.

    Raises ValueError with the failing program's own words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if artifact.file.endswith(".gguf"):
        return Prepared(_gguf(artifact, folder), None)
    return exported(
        folder / artifact.file, artifact.options, reuse,
        lambda: _source(MODELS[artifact.model], folder),
    )  # fmt: skip


def reload(path: Path) -> None:
    """Has the file read into the page cache anew, as after a start of the machine.

    Pages that are left from writing it may lie scattered over a full memory; reading them then takes
    up to half as long again (docs/results/kernels.md).
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 24):
            pass


def _gguf(artifact: Artifact, folder: Path) -> Path:
    path = folder / artifact.file
    if path.is_file():
        return path
    model, kind = MODELS[artifact.model], artifact.options[0]
    if kind == BASE:
        note(f"writing {path.name}")
        _module("scripts.bench.write_gguf", _source(model, folder), str(path), "--dtype", "bf16")
        return path
    base = _gguf(Artifact(model.name, f"{BASE}.gguf", (BASE,)), folder)
    note(f"quantizing {path.name}")
    part = folder / f".{path.name}"
    tool = LLAMA_BIN / "llama-quantize"
    command = [str(tool), *model.quantize_options, str(base), str(part), kind]
    call(tool.name, command, shown=False)
    part.rename(path)
    return path


def _source(model: Model, folder: Path) -> str:
    """What the exporter is given: the alias, or a folder of random weights."""
    if model.source is not None:
        return model.source
    path = folder / model.name
    if not path.is_dir():
        note(f"writing random weights of the shape of {model.name}")
        script = ROOT / "scripts" / "random_checkpoint.py"
        call(script.name, [sys.executable, str(script), "--like", model.name, "--out", str(path)])
    return str(path)


def exported(
    path: Path, options: Sequence[str], reuse: bool, source: Callable[[], str], **more: str
) -> Prepared:
    """The export with `options` at `path`; made, of the model that `source` gives, where the record
    beside it does not say the same options and `more`, or, unless `reuse`, other code of ours.

    Raises ValueError with the exporter's own words.
    """
    record = path.with_name(path.name + ".json")
    wanted = {"options": list(options), **more}
    sources = {"sources": _sources_digest()}
    found = _read_record(record) if path.is_file() else {}
    compared = wanted if reuse else {**wanted, **sources}
    if {key: found.get(key) for key in compared} == compared:
        return Prepared(path, found["seconds"])
    model = source()
    record.unlink(missing_ok=True)
    note(f"exporting {path.name}")
    start = time.monotonic()
    _module("exporter", model, *options, OUTPUT_FLAGS[path.suffix[1:]], str(path))
    seconds = time.monotonic() - start
    content = json.dumps({**wanted, **sources, "seconds": seconds})
    record.write_text(content, encoding="utf-8")
    return Prepared(path, seconds)


def _read_record(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _sources_digest() -> str:
    """Of the code that decides what an artifact holds: the exporter and the packing in kernels/."""
    files = [*(ROOT / "exporter").rglob("*.py"), *(ROOT / "exporter").rglob("*.json")]
    files += [path for path in (ROOT / "kernels").glob("*") if path.is_file()]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _module(name: str, *arguments: str) -> None:
    call(name, [sys.executable, "-m", name, *arguments])


def call(name: str, command: Sequence[str], shown: bool = True) -> None:
    """Runs a program to its end and passes its words on.

    A process of its own for everything large: a child's peak memory as the kernel counts it starts
    from its parent's, so this one stays small. Raises ValueError with the last line of its words.
    """
    last = ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        for line in process.stdout:
            last = line.strip() or last
            if shown:
                print("    " + line.rstrip(), file=sys.stderr, flush=True)
    if process.returncode != 0:
        words = re.sub(r"^(\[ *\d+s\] )?(error: )?", "", last)
        raise ValueError(f"{name} failed: {words}")
