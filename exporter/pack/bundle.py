"""Make a bundle: a folder with a runner, an artifact and what says where they run and what was checked."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exporter import __version__
from exporter.artifact.contents import PTE, SO, Artifact, stored_recipe
from exporter.artifact.metadata import SELF_TEST_KEY, sidecar_of
from exporter.artifact.reader import read_artifact
from exporter.lower.targets import this_machine
from exporter.pack.archive import is_archive, write_archive
from exporter.pack.bundle_needs import bundle_needs, compiled_codes
from exporter.pack.runner_files import check_built, install_runner
from exporter.pack.targets import BundleTarget
from exporter.recipe.schemes import LOWBIT
from exporter.util.files import check_writable, disk_full_named, written_whole
from exporter.util.progress import stage

MANIFEST, START = "MANIFEST.json", "run.sh"
NOT_RUN = "not run"
EMULATORS = {"aarch64": ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")}
START_TEXT = """#!/bin/sh
# Run the model of this folder: ./run.sh -i "Once upon a time", or ./run.sh --help.
folder=$(dirname -- "$(readlink -f -- "$0")") || exit 1
exec "$folder/bin/{program}" "$folder/{model}" "$@"
"""


@dataclass(frozen=True)
class BundleRequest:
    """What to pack, for which machine, and where to; `verify` gives the verdict of that name, None: it is not
    asked."""

    artifact: Path
    target: BundleTarget
    output: Path
    verify: Callable[[], Mapping[str, object]] | None = None


def _check_request(request: BundleRequest) -> Artifact:
    """Read the artifact before anything is written.

    Raises ValueError or OSError with a line that names the value and the remedy where it cannot be packed for
    the target, or the output not be written.
    """
    artifact = read_artifact(request.artifact)
    target, output = request.target, request.output
    if artifact.metadata.get("runtime") == "torch":
        raise ValueError(
            f"{artifact.path} needs libtorch, which is not packed; export it with --delegate lowbit"
        )
    machines = {code.machine for code in compiled_codes(artifact)}
    if artifact.kind != PTE and target.machine not in machines:
        raise ValueError(
            f"{artifact.path} has code for {', '.join(sorted(machines)) or 'no machine'} and none for "
            f"{target.machine}; export it with --target {target.machine.replace('_', '-')}"
        )
    check_built(target, _program(artifact))
    stored_recipe(artifact)
    if SELF_TEST_KEY not in artifact.metadata:
        raise ValueError(f"{artifact.path} has no self-test: an older release exported it; export it again")
    if is_archive(output):
        check_writable(output)
        if output.exists() and output.samefile(artifact.path):
            raise ValueError(f"{output} is the artifact itself; name another output")
    elif output.exists():
        raise FileExistsError(f"{output} is there already; remove it, or name another folder")
    else:
        check_writable(output)
    return artifact


def pack(request: BundleRequest) -> None:
    """Write the bundle of `request`, whole or not at all.

    Raises ValueError or OSError where the artifact cannot be packed for the target or the output not be
    written, as the request's `verify`, and where a file needs what the target lacks or the self-test fails.
    """
    artifact = _check_request(request)
    verdict = NOT_RUN if request.verify is None else request.verify()
    with _folder_beside(request.output) as folder:
        with stage(f"packing for {request.target.name}"):
            _fill(folder, artifact, request.target)
            needs = bundle_needs(folder, artifact, request.target)
        with stage("running the self-test"):
            self_test = _self_test(folder, artifact, request.target)
        with stage(f"writing {request.output}"):
            manifest = _manifest(folder, artifact, request.target, needs, verdict, self_test)
            text = json.dumps(manifest, indent=1, ensure_ascii=False)
            (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            if is_archive(request.output):
                with written_whole(request.output) as part:
                    write_archive(folder, part, request.output.name)
            else:
                folder.rename(request.output)


def _program(artifact: Artifact) -> str:
    return "et_run" if artifact.kind == PTE else "aoti_run"


def _model_name(artifact: Artifact) -> str:
    return f"model.{artifact.kind}"


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """Give an empty folder on the disk of `output`; it is removed unless it was renamed."""
    with disk_full_named(str(output)):
        outer = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent.resolve()))
        try:
            folder = outer / "bundle"
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(outer, ignore_errors=True)


def _fill(folder: Path, artifact: Artifact, target: BundleTarget) -> None:
    install_runner(target, _program(artifact), artifact.delegate != LOWBIT, folder)
    model = folder / _model_name(artifact)
    shutil.copyfile(artifact.path, model)
    if artifact.kind == SO:
        shutil.copyfile(sidecar_of(artifact.path), sidecar_of(model))
    start = folder / START
    start.write_text(START_TEXT.format(program=_program(artifact), model=model.name))
    start.chmod(0o755)


def _self_test(folder: Path, artifact: Artifact, target: BundleTarget) -> dict[str, object] | str:
    """Run the bundle's own self-test where this machine can. Raises ValueError when it fails."""
    emulator = EMULATORS.get(target.machine)
    if target.machine == this_machine():
        command, place = [], target.machine
    elif emulator and shutil.which(emulator[0]) and Path(emulator[2]).is_dir():
        command, place = list(emulator), f"emulated {target.machine}"
    else:
        return f"{NOT_RUN}: this machine runs no {target.machine}"
    program = folder / "bin" / _program(artifact)
    words = [*command, program, folder / _model_name(artifact), "--self-test", "--json"]
    clean = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "LD_PRELOAD", "LOWBIT_ISA")}
    done = subprocess.run(words, capture_output=True, text=True, env=clean)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        words = (done.stderr or done.stdout).strip().partition("\n")[0]
        said = words or f"it ended with status {done.returncode}"
        raise ValueError(f"the packed runner does not run: {said}") from None
    if not said["passed"]:
        raise ValueError(f"the packed runner fails its self-test: {said['wrong'][0]}; export the model again")
    counts = {key: said[key] for key in ("texts", "conversations", "prompts", "positions")}
    return {"passed": True, "on": place, **counts}


def _manifest(
    folder: Path, artifact: Artifact, target: BundleTarget, needs: Mapping[str, object],
    verdict: Mapping[str, object] | str, self_test: Mapping[str, object] | str,
) -> dict[str, object]:  # fmt: skip
    metadata = artifact.metadata
    versions = {key: value for key, value in metadata.items() if key.endswith("_version") and value}
    return {
        "format": 1,
        "target": target.name,
        "boards": list(target.boards),
        "needs": needs,
        "artifact": {
            "file": _model_name(artifact),
            "model": artifact.model_name,
            "recipe": stored_recipe(artifact),
            "delegate": artifact.delegate,
            "checkpoint_digest": metadata.get("checkpoint_digest"),
            "versions": versions,
        },
        "packed_by": f"exporter {__version__}",
        "verify": verdict,
        "self_test": self_test,
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(folder.rglob("*")) if path.is_file()
        },
    }  # fmt: skip


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
