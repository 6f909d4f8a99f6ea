"""What is asked of `pack`, checked before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.artifact.contents import PT2, PTE, Artifact, stored_recipe
from exporter.artifact.metadata import SELF_TEST_KEY
from exporter.artifact.reader import read_artifact
from exporter.lower.targets import STATIC
from exporter.pack.archive import is_archive
from exporter.pack.bundle_needs import check_features, code_option, compiled_codes
from exporter.pack.runner_files import check_built
from exporter.pack.sign import Signer
from exporter.pack.targets import AOTI_RUN, ET_RUN, BundleTarget
from exporter.util.files import check_writable


@dataclass(frozen=True)
class PackRequest:
    """What to pack, for which machine, and where to; `verify` gives the verdict of that name, None: it is not
    asked. `single_file`: one program with the model in it, else a folder or archive. `signer` signs it."""

    artifact: Path
    target: BundleTarget
    output: Path
    single_file: bool = False
    verify: Callable[[], Mapping[str, object]] | None = None
    signer: Signer | None = None


def program_of(artifact: Artifact) -> str:
    """Name the runner of an artifact."""
    return ET_RUN if artifact.kind == PTE else AOTI_RUN


def check_request(request: PackRequest) -> Artifact:
    """Read the artifact.

    Raises ValueError or OSError with a line that names the value and the remedy where it cannot be packed for
    the target, or the output not be written.
    """
    artifact = read_artifact(request.artifact)
    if artifact.metadata.get("runtime") == "torch":
        raise ValueError(
            f"{artifact.path} needs libtorch, which is not packed; export it with --delegate lowbit"
        )
    if request.single_file:
        _check_single_file(artifact, request.target)
    else:
        _check_bundle(artifact, request.target)
    stored_recipe(artifact)
    if SELF_TEST_KEY not in artifact.metadata:
        raise ValueError(f"{artifact.path} has no self-test: an older release exported it; export it again")
    _check_output(request.output, artifact.path, request.single_file)
    return artifact


def _check_bundle(artifact: Artifact, target: BundleTarget) -> None:
    program = program_of(artifact)
    if target.preset is None or program not in target.programs:
        if artifact.kind == PTE:
            raise ValueError(
                f"there is no et_run for {target.name}: ExecuTorch's libraries need glibc 2.28 or newer; "
                "export a .pt2 with --output-aoti-package"
            )
        raise ValueError(
            f"{target.name} is served by a program of one file alone, which a .pt2 can be: add --single-file"
        )
    if artifact.kind != PTE:
        _check_code(artifact, target.machine, code_option(target))
        check_features(artifact, target)
    check_built(target.name, target.preset, program)


def _check_single_file(artifact: Artifact, target: BundleTarget) -> None:
    if artifact.kind != PT2:
        raise ValueError(
            f"{artifact.path} cannot be a single file: its code must be linked, which a .pt2's alone can be; "
            "export it with --output-aoti-package"
        )
    if target.single_file is None:
        raise ValueError(
            f"there is no single file for {target.name}; it needs no C library: take --target "
            f"{target.name.partition('-glibc')[0]}"
        )
    _check_code(artifact, target.machine + STATIC, target.machine.replace("_", "-") + STATIC)
    check_built(target.name, target.single_file, "libsingle_file.a")


def _check_code(artifact: Artifact, machine: str, option: str) -> None:
    machines = {code.machine for code in compiled_codes(artifact)}
    if machine not in machines:
        raise ValueError(
            f"{artifact.path} has code for {', '.join(sorted(machines)) or 'no machine'} and none for "
            f"{machine}; export it with --target {option} (several are separated by commas)"
        )


def _check_output(output: Path, artifact: Path, single_file: bool) -> None:
    if is_archive(output) and single_file:
        raise ValueError(f"{output} is an archive's name, and --single-file writes a program; name another")
    if output.is_dir() or (output.exists() and not (single_file or is_archive(output))):
        raise FileExistsError(f"{output} is there already; remove it, or name another")
    check_writable(output)
    if output.exists() and output.samefile(artifact):
        raise ValueError(f"{output} is the artifact itself; name another output")
