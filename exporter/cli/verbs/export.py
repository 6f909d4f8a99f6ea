"""Export a model to artifacts: the verb `export`, which is run where none is named."""

import argparse
from dataclasses import replace
from pathlib import Path

from exporter import __version__
from exporter.checkpoint.known_models import model_name
from exporter.cli.command_line import UsageError, one_of
from exporter.cli.model_options import add_model_options, model_request
from exporter.lower.targets import RUNTIMES, TARGETS, find_targets
from exporter.pipeline.export import OutputPaths, Request
from exporter.pipeline.export import run as run_export

SUMMARY = "write a MODEL to artifacts, as is done where no verb is named"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?",
        help="alias (see `models`), folder, .gguf file or hub id; with --checkpoint only a name, and may "
             "be left out")  # fmt: skip
    for flag, spelling, suffix, text in (
        ("--output-pte", "--output-pte-path", ".pte", "ExecuTorch program, for et_run"),
        ("--output-aoti-package", "--output-aoti-package-path", ".pt2", "AOTI package, for aoti_run"),
        ("--output-dso", "--output-dso-path", ".so", "AOTI library and its .so.json, for aoti_run"),
    ):
        help_text = f"{text}; PATH defaults to MODEL{suffix} here"
        add(flag, spelling, nargs="?", const="", metavar="PATH", help=help_text)
    add_model_options(parser)
    add("--target", metavar="NAMES",
        help="AOTI instruction sets, one or several with commas: " + ", ".join(TARGETS) +
             " (default: any CPU of this machine's architecture; native with stock kernels)")  # fmt: skip
    add("--runtime", default="auto", type=one_of(RUNTIMES), metavar="NAME",
        help="what an AOTI artifact runs on: lean, aoti_run as it is; torch, aoti_run built with "
             "libtorch (auto: lean where its code needs no more)")  # fmt: skip
    add("--max-autotune", action="store_true", help="AOTI, stock kernels: try several, slower export")
    add("--version", action="version", version=f"exporter {__version__}")


def run(options: argparse.Namespace) -> int:
    run_export(request(options))
    return 0


def request(options: argparse.Namespace) -> Request:
    """Read from the flags what is to be exported. Raises UsageError for what cannot be."""
    name = _model(options)
    stem = model_name(name)

    def path(value: str | None, suffix: str) -> Path | None:
        return None if value is None else Path(value or f"{stem}{suffix}")

    outputs = OutputPaths(
        pte=path(options.output_pte, ".pte"),
        package=path(options.output_aoti_package, ".pt2"),
        library=path(options.output_dso, ".so"),
    )
    if not outputs.paths():
        raise UsageError(
            "no output asked for; add --output-pte, --output-aoti-package or --output-dso"
        )
    _refuse_collisions(outputs)
    try:
        if options.target is not None:
            find_targets(options.target)
    except ValueError as error:
        raise UsageError(str(error)) from error
    model = model_request(name, options)
    calibration = replace(model.calibration, work_folder=outputs.paths()[0].parent)
    return Request(
        model=replace(model, calibration=calibration),
        outputs=outputs,
        target=options.target,
        runtime=options.runtime,
        max_autotune=options.max_autotune,
    )


def _model(options: argparse.Namespace) -> str:
    """Return MODEL; where it is left out, the checkpoint's own name."""
    if options.model is not None:
        return options.model
    if options.checkpoint is not None:
        return str(options.checkpoint)
    taken = [p for p in (options.output_pte, options.output_aoti_package, options.output_dso) if p]
    what = f"{taken[0]} was taken as an output's PATH; MODEL comes before the options" if taken else (
        "give an alias, a folder, a .gguf file or a hub id"
    )  # fmt: skip
    raise UsageError(f"MODEL is missing: {what}; see python -m exporter --help")


def _refuse_collisions(outputs: OutputPaths) -> None:
    files = [path.resolve() for path in outputs.files()]
    for path in files:
        if files.count(path) > 1:
            raise UsageError(f"two outputs are the file {path}; give them different paths")
