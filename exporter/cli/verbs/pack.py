"""Pack an artifact and its runner for a machine without Python: a folder, .tar.gz, .zip or one program.

The bundle has the runner, the artifact, licences, run.sh, and MANIFEST.json: what the files need of the
machine, the verdict of verify, the result of the runner's self-test, and the SHA-256 of each file. On one
machine the same files give the same bytes. --single-file writes a static program with the model in it, which
needs nothing of the system: ./model -i "Once upon a time".
"""

import argparse
from functools import partial
from pathlib import Path

from exporter.cli.command_line import UsageError, positive

SUMMARY = "pack an ARTIFACT with its runner for a machine without Python"


def configure(parser: argparse.ArgumentParser) -> None:
    from exporter.pack.targets import BUNDLE_TARGETS

    names = "; ".join(" = ".join((target.name, *target.boards)) for target in BUNDLE_TARGETS)
    add = parser.add_argument
    add("artifact", metavar="ARTIFACT", type=Path, help=".pte, .pt2 or .so with its .so.json")
    add("-o", "--output", type=Path, metavar="PATH", required=True,
        help="what to write: .tar.gz, .tgz or .zip by its name, else a folder")  # fmt: skip
    add("--single-file", action="store_true",
        help="write one program, of a .pt2 with --target x86-64-static or aarch64-static")  # fmt: skip
    add("--target", metavar="NAME", help=f"a kind of machine or a board (default: this machine's): {names}")
    add("--sign", type=Path, metavar="KEY",
        help="sign what is written with this secret key of minisign's")  # fmt: skip
    add("--checkpoint", metavar="PATH|MODEL",
        help="what verify compares with (default: the model that the artifact names)")  # fmt: skip
    add("--no-verify", action="store_true", help="leave verify out; the manifest says so")
    add("--threads", type=positive, default=0, metavar="N", help="of verify")


def run(options: argparse.Namespace) -> int:
    from exporter.lower.targets import this_machine
    from exporter.pack.bundle import pack
    from exporter.pack.request import PackRequest
    from exporter.pack.sign import Signer
    from exporter.pack.single_file import pack_single_file
    from exporter.pack.targets import find_target, target_of
    from exporter.util.progress import note

    try:
        target = target_of(this_machine()) if options.target is None else find_target(options.target)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.no_verify and options.checkpoint:
        raise UsageError("--checkpoint is for verify, which --no-verify leaves out; give one of them")
    verify = None if options.no_verify else partial(_verdict, options)
    signer = Signer(options.sign) if options.sign else None
    request = PackRequest(options.artifact, target, options.output, options.single_file, verify, signer)
    (pack_single_file if options.single_file else pack)(request)
    note(f"wrote {options.output} for {target.name}")
    return 0


def _verdict(options: argparse.Namespace) -> dict[str, object]:
    """Run verify. Raises ValueError when the artifact is not what it was made from."""
    from exporter.util.native_files import INSTALL_EXPORT

    try:
        import torch  # noqa: F401

        from exporter.verify.checks import SKIP
        from exporter.verify.verify import VerifyRequest, verify
    except ModuleNotFoundError as error:
        raise ValueError(
            f"verify needs the package {error.name}, which is not installed; {INSTALL_EXPORT}, or leave "
            "verify out with --no-verify"
        ) from None

    request = VerifyRequest(options.artifact, checkpoint=options.checkpoint, threads=options.threads)
    result = verify(request)
    if not result.good:
        raise ValueError(f"not packed: {result.line}")
    return {
        "passed": True,
        "checks": {check.name: check.measured for check in result.checks if check.verdict != SKIP},
    }
