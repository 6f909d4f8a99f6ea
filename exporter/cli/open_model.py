"""Open ARTIFACT|MODEL: an artifact in its native runner, or a model run by PyTorch, behind one interface."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.cli.command_line import UsageError
from exporter.cli.model_options import add_model_options, model_request
from exporter.recipe.recipe import CACHE_DTYPES

if TYPE_CHECKING:
    from exporter.artifact.runner_interface import RunnerModel

SUFFIXES = (".pte", ".pt2", ".so")
AT_START = ("max_seq_length", "cache_dtype")  # what an artifact, too, lets the program choose


def add_runnable_options(parser: argparse.ArgumentParser) -> None:
    """Add `--compile`, `--compile-prefill` and `add_model_options`' flags: for a MODEL, and those of AT_START
    for an ARTIFACT, too."""
    parser.add_argument("--compile", action="store_true",
        help="MODEL: compile the forward of one token")  # fmt: skip
    parser.add_argument("--compile-prefill", action="store_true",
        help="MODEL: compile that of a chunk of text too")  # fmt: skip
    add_model_options(parser)


def is_artifact(name: str) -> bool:
    """Tell whether `name` means an artifact's file, be it there or not, and not a model."""
    return Path(name).suffix in SUFFIXES and not Path(name).is_dir()


def open_model(options: argparse.Namespace, sessions: int = 1) -> "RunnerModel":
    """Open the artifact `options.model`, or the model of that name run by PyTorch.

    `options` are those of `add_runnable_options`, with model and threads. An artifact has room for `sessions`
    at a time; PyTorch runs one. Raises UsageError for a flag that an artifact cannot follow, ValueError or
    OSError for the rest.
    """
    threads = options.threads or 0
    if is_artifact(options.model):
        _refuse_model_flags(options)
        from exporter.runners.native import load_artifact

        cache_dtype = CACHE_DTYPES[options.cache_dtype]
        return load_artifact(
            options.model, threads, context_length=options.max_seq_length, cache_dtype=cache_dtype,
            sessions=sessions,
        )  # fmt: skip
    request = model_request(options.model, options)
    from exporter.pipeline.prepare import prepare
    from exporter.runners.eager import eager_model

    prepared = prepare(request, ())
    return eager_model(prepared, options.compile, options.compile_prefill, threads)


def _refuse_model_flags(options: argparse.Namespace) -> None:
    """Raise UsageError for a flag of a MODEL; `--adapter` may be the reference's."""
    parser = argparse.ArgumentParser()
    add_runnable_options(parser)
    allowed = AT_START if getattr(options, "reference", None) is None else (*AT_START, "adapter")
    for name, default in vars(parser.parse_args([])).items():
        if name not in allowed and getattr(options, name) != default:
            raise UsageError(
                f"--{name.replace('_', '-')} is for a MODEL that is not exported yet; "
                f"{options.model} is an artifact: leave it out"
            )
