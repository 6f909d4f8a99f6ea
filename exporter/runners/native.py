"""Load the native runners in this process: their core is built as one Python library a backend.

What they load has the methods of `artifact.runner_interface.RunnerModel`, whichever library it is of.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from exporter.artifact.runner_interface import Forward, RunnerModel, RunnerModule, RunnerSampler
from exporter.recipe.schemes import AOTI, EXECUTORCH
from exporter.util import runner_modules

MODULES = {EXECUTORCH: "_et", AOTI: "_aoti"}

ZIP_MAGIC, ELF_MAGIC = b"PK\x03\x04", b"\x7fELF"
EXECUTORCH_MAGIC_AT, EXECUTORCH_MAGIC = 4, b"ET"


def load_artifact(
    path: Path | str,
    threads: int = 0,
    metadata_only: bool = False,
    context_length: int | None = None,
    cache_dtype: str | None = None,
    sessions: int = 1,
) -> RunnerModel:
    """Load the artifact `path` (.pte, .pt2 or .so).

    Args:
        threads: how many the native code uses; 0: OMP_NUM_THREADS, else this machine's cores.
        metadata_only: read metadata and tokenizer, and not the code, which may be another machine's.
        context_length: most tokens of a session; None: the artifact's.
        cache_dtype: float32, float16, int8 or int4; None: the artifact's.
        sessions: how many there can be at a time. Memory for all is asked for, and taken as they grow.

    Raises FileNotFoundError when the file is missing or the library that runs it is not built, and
    ValueError, with the runner's line, when it cannot be loaded.
    """
    backend = backend_of(Path(path))
    # Bytes: a file's name need not be text.
    return _library(backend).load_model(
        os.fsencode(path), threads, metadata_only, context_length, cache_dtype, sessions
    )


def make_python_model(metadata: Mapping[str, str], forward: Forward, threads: int = 0) -> RunnerModel:
    """Make a model whose forward is a Python callable.

    Args:
        metadata: the keys of an artifact, with the tokenizer's table in base64 (`Metadata.to_strings`).
        forward: forward(tokens int64 [T], start_pos, rows int64 [R]) -> float32 [R, vocab].
        threads: of the native code around it (0: as `load_artifact`), not of the callable.

    Raises FileNotFoundError when neither library is built, ValueError for a key that is missing or
    wrong.
    """
    return _any_library().make_python_model(dict(metadata), forward, threads)


def make_sampler(seed: int = 0, **settings: object) -> RunnerSampler:
    """Make logits processors and filters without a model (runner/python/sampling.cpp), to see what they do.

    `settings` as `RunnerModel.generate` takes them; what is absent changes nothing. Raises FileNotFoundError
    when neither library is built, ValueError for a value out of range.
    """
    return _any_library().Sampler(seed, **settings)


def sampling_numbers() -> list[tuple[object, ...]]:
    """Return the runners' settings that are numbers, each one's NumberSetting as a tuple."""
    return _any_library().sampling_numbers()


def read_bandwidth(threads: int = 0, seconds: float = 1.0) -> float:
    """Return the bytes a second that `threads` threads read from memory. Holds 512 MiB while it lasts."""
    return _any_library().read_bandwidth(threads, seconds)


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return _any_library().peak_rss_bytes()


def backend_of(path: Path) -> str:
    """Tell the backend of an artifact, `executorch` or `aoti`, by the file's first bytes.

    Raises OSError when it cannot be read, ValueError when it is no artifact.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, not an artifact; name a .pte, .pt2 or .so file")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; export it, or name another artifact") from None
    if start[EXECUTORCH_MAGIC_AT:].startswith(EXECUTORCH_MAGIC):
        return EXECUTORCH
    if start.startswith((ZIP_MAGIC, ELF_MAGIC)):
        return AOTI
    raise ValueError(f"{path} is no artifact; give a .pte, .pt2 or .so file that the exporter wrote")


def _library(backend: str) -> RunnerModule:
    """Import the library of `backend`. Raises FileNotFoundError with the remedy when it is not built."""
    return cast(RunnerModule, runner_modules.load_runner_module(MODULES[backend]))


def _any_library() -> RunnerModule:
    name = runner_modules.first_built(list(MODULES.values())) or MODULES[EXECUTORCH]
    return cast(RunnerModule, runner_modules.load_runner_module(name))
