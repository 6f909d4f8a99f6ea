"""Run an artifact's self-test on this machine, by its native runner.

Token ids, conversations and the bits of logits are compared with what was stored at export. The exit status
is 0 when all are equal.
"""

import argparse
import subprocess
from pathlib import Path

from exporter.cli.command_line import positive

SUMMARY = "compare what this machine computes with what an ARTIFACT stores"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("artifact", metavar="ARTIFACT", type=Path, help=".pte, .pt2 or .so with its .so.json")
    add("--threads", type=positive, metavar="N", help="threads (default: the runner's)")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(options: argparse.Namespace) -> int:
    from exporter.recipe.schemes import EXECUTORCH
    from exporter.runners.native import backend_of
    from exporter.util.native_files import native_program
    from exporter.util.progress import note

    name = "et_run" if backend_of(options.artifact) == EXECUTORCH else "aoti_run"
    words = [native_program(name), options.artifact.absolute(), "--self-test"]
    words += ["--json"] if options.json else []
    words += ["--threads", str(options.threads)] if options.threads else []
    status = subprocess.run(words).returncode
    if status < 0:
        note(f"error: {name} was ended by signal {-status}")
        return 128 - status
    return status
