"""Load the runners' core in this process: a Python library for each backend (runner/python/module.cpp)."""

import functools
import importlib.util
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from exporter.util.errors import first_line
from exporter.util.native_files import check_version, native_folder, remedy

FOLDER_VARIABLE = "RUNNER_MODULES"
FOLDER = native_folder() / "python"
_CORES = ("_aoti", "_et")  # the first needs no framework


def load_runner_module(name: str) -> ModuleType:
    """Import the library `name`. Raises FileNotFoundError with the remedy when it is not built, ValueError
    when it cannot be loaded."""
    return _imported(name, _path(name))


def load_core() -> ModuleType:
    """Import a library for what needs no model: the one that needs no framework, where it is built.

    Raises as `load_runner_module` does.
    """
    return load_runner_module(first_built(_CORES) or _CORES[0])


def first_built(names: Sequence[str]) -> str | None:
    """Return the first of `names` whose library is there; None where none is."""
    return next((name for name in names if _path(name).is_file()), None)


def _path(name: str) -> Path:
    folder = Path(os.environ.get(FOLDER_VARIABLE) or FOLDER)
    return folder / (name + sysconfig.get_config_var("EXT_SUFFIX"))


@functools.cache
def _imported(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the runner's library for Python {sysconfig.get_python_version()} is not there; "
            f"{remedy()}, or name its folder with {FOLDER_VARIABLE}"
        )
    spec = importlib.util.spec_from_file_location(f"{__name__}.{name}", path)
    check_version("executorch")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ValueError(f"{path} cannot be loaded ({first_line(error)}); {remedy()}") from None
    return module
