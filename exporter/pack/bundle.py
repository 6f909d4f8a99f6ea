"""Make a bundle: a folder with a runner, an artifact and what says where they run and what was checked."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.artifact.contents import SO, Artifact
from exporter.artifact.metadata import sidecar_of
from exporter.pack.archive import is_archive, write_archive
from exporter.pack.bundle_needs import bundle_needs, lacking_here
from exporter.pack.manifest import MANIFEST, Facts, described, manifest_text
from exporter.pack.request import PackRequest, check_request, program_of
from exporter.pack.runner_files import install_runner
from exporter.pack.self_test import NOT_RUN, run_self_test
from exporter.pack.targets import BundleTarget
from exporter.recipe.schemes import LOWBIT
from exporter.util.files import disk_full_named, written_whole
from exporter.util.progress import stage

START = "run.sh"
START_TEXT = """#!/bin/sh
# Run the model of this folder: ./run.sh -i "Once upon a time", or ./run.sh --help.
case "$(getconf LONG_BIT 2> /dev/null || uname -m)" in
  32 | arm* | i?86)
    echo "run.sh: this is for 64-bit {machine}, and this system is of 32 bits; install a 64-bit one" >&2
    exit 1 ;;
esac
folder=$(dirname -- "$(readlink -f -- "$0")") || exit 1
exec "$folder/bin/{program}" "$folder/{model}" "$@"
"""


def pack(request: PackRequest) -> None:
    """Write the bundle of `request`, whole or not at all.

    Raises ValueError or OSError where the artifact cannot be packed for the target or the output not be
    written, as the request's `verify`, and where a file needs what the target lacks or the self-test fails.
    """
    artifact = check_request(request)
    verdict = NOT_RUN if request.verify is None else request.verify()
    target = request.target
    with folder_beside(request.output) as outer:
        folder = outer / "bundle"
        folder.mkdir()
        with stage(f"packing for {target.name}"):
            _fill(folder, artifact, target)
            needs = bundle_needs(folder, artifact, target)
        with stage("running the self-test"):
            lacking = lacking_here(needs)
            words = [folder / "bin" / program_of(artifact), folder / _model_name(artifact)]
            self_test = lacking or run_self_test(words, target.machine, own_libraries=False)
        with stage(f"writing {request.output}"):
            if request.signer:
                for path in sorted(folder.glob("model.*")):
                    request.signer.sign(path, path.name)
            facts = Facts(artifact, _model_name(artifact), target, needs, verdict, self_test)
            files = {
                path.relative_to(folder).as_posix(): described(path)
                for path in sorted(folder.rglob("*")) if path.is_file()
            }  # fmt: skip
            text = manifest_text(facts, files)
            (folder / MANIFEST).write_text(text, encoding="utf-8", errors="backslashreplace")
            if request.signer:
                request.signer.sign(folder / MANIFEST, MANIFEST)
            if is_archive(request.output):
                with written_whole(request.output) as part:
                    write_archive(folder, part, request.output.name)
            else:
                folder.rename(request.output)


def _model_name(artifact: Artifact) -> str:
    return f"model.{artifact.kind}"


@contextmanager
def folder_beside(output: Path) -> Iterator[Path]:
    """Give an empty folder on the disk of `output`, which is removed with what is still in it."""
    with disk_full_named(str(output)):
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent.resolve()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, artifact: Artifact, target: BundleTarget) -> None:
    install_runner(target.preset, program_of(artifact), artifact.delegate != LOWBIT, folder)
    model = folder / _model_name(artifact)
    shutil.copyfile(artifact.path, model)
    if artifact.kind == SO:
        shutil.copyfile(sidecar_of(artifact.path), sidecar_of(model))
    start = folder / START
    words = {"program": program_of(artifact), "model": model.name, "machine": target.machine}
    start.write_text(START_TEXT.format(**words))
    start.chmod(0o755)
