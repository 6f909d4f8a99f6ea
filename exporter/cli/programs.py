"""The native programs as commands of the installed package: `et_run`, `aoti_run`."""

import os
import sys

from exporter.util.native_files import native_program


def et_run() -> None:
    _become("et_run")


def aoti_run() -> None:
    _become("aoti_run")


def _become(name: str) -> None:
    """Replace this process by the program, with its arguments."""
    try:
        path = native_program(name)
    except FileNotFoundError as error:
        sys.exit(f"{name}: {error}")
    os.execv(path, [name, *sys.argv[1:]])
