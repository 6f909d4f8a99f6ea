"""The command line: `python -m exporter MODEL --output-pte`, and verbs."""

import argparse
import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from exporter import __version__
from exporter.models import MODELS, model_name
from exporter.pipeline import Outputs, Request, run
from exporter.progress import note
from exporter.recipe import (
    ACCELERATORS,
    CACHE_DTYPES,
    DTYPES,
    parse_recipe,
    ready_recipes,
    resolve_device,
)
from exporter.schemes import DELEGATES, LOWBIT, support_table
from exporter.targets import RUNTIMES, TARGETS, find_targets

LATER_VERBS = ("inspect", "verify", "eval", "bench", "generate", "pack")
EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

EPILOG = f"""verbs:
  python -m exporter models      list the model aliases
  python -m exporter export ...  the same as without a verb

schemes, and the delegates that run them on each backend:

{support_table()}

examples:
  python -m exporter smollm2 --output-pte
  python -m exporter ./my-model --output-pte m.pte --output-aoti-package m.pt2
  python -m exporter smollm2 --output-pte --quantize q4
"""


class UsageError(Exception):
    """What the user typed cannot be read; exit status 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see python -m exporter --help")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status. Errors are one line on stderr."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _dispatch(list(arguments))
    except UsageError as error:
        note(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        note("interrupted; nothing was left behind")
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        return _fail(_one_line(error), arguments)
    except Exception as error:  # a defect of ours or of a library: still one line
        name = type(error).__name__
        return _fail(f"{name}: {_one_line(error)} (--verbose shows where)", arguments)


def _interrupt(signal_number, frame):
    """End as an interrupt does, so that what was half-written is removed."""
    raise KeyboardInterrupt


def _fail(message: str, arguments: Sequence[str]) -> int:
    if "--verbose" in arguments:
        traceback.print_exc()
    note(f"error: {message}")
    return EXIT_FAILURE


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _dispatch(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb == "models":
        return _list_models(arguments[1:])
    if verb in LATER_VERBS:
        raise UsageError(f"the verb {verb} is not in this version; see python -m exporter --help")
    options = _parser().parse_args(arguments[1:] if verb == "export" else arguments)
    _quiet(options.verbose)
    run(_request(options))
    return 0


def _list_models(rest: list[str]) -> int:
    if rest:
        raise UsageError(f"models takes no argument, got {rest[0]}")
    width = max(len(alias) for alias in MODELS)
    for alias, known in MODELS.items():
        source = f"PyPI {known.package}" if known.package else known.hub_id
        gated = ", gated: accept its licence on the hub first" if known.gated else ""
        print(f"{alias:{width}}  {known.description}: {known.family}, {source}{gated}")
    return 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m exporter",
        description="Export a language model to an artifact that a native runner reads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="alias (see `models`), folder, .gguf file or hub id")
    for flag, spelling, suffix, text in (
        ("--output-pte", "--output-pte-path", ".pte", "ExecuTorch program, for et_run"),
        ("--output-aoti-package", "--output-aoti-package-path", ".pt2", "AOTI package, for aoti_run"),
        ("--output-dso", "--output-dso-path", ".so", "AOTI library and its .so.json, for aoti_run"),
    ):
        help_text = f"{text}; PATH defaults to MODEL{suffix} here"
        add(flag, spelling, nargs="?", const="", metavar="PATH", help=help_text)
    add("--quantize", metavar="JSON|FILE|NAME",
        help=f"recipe: JSON text, a file, or a ready one: {ready_recipes()}")  # fmt: skip
    add("--delegate", default=LOWBIT, choices=DELEGATES,
        help="whose kernels run the model: lowbit, this project's (default); xnnpack, for "
             "linear:a8w4dq in a .pte; stock, PyTorch's and ExecuTorch's own")  # fmt: skip
    add("--cache-dtype", default="auto", choices=CACHE_DTYPES,
        help="KV cache of the lowbit kernels (auto: fp32 for an unquantized fp32 model, else "
             "fp16)")  # fmt: skip
    add("--dtype", metavar="TYPE", choices=("fast", "fast16", *DTYPES),
        help="fast, fast16, " + ", ".join(DTYPES) + " (default fp32)")  # fmt: skip
    add("--device", choices=ACCELERATORS, help="this version exports for the CPU (default)")
    add("--max-seq-length", type=_positive, metavar="N",
        help="context length (default: the model's own, at most 2048)")  # fmt: skip
    add("--checkpoint", type=Path, metavar="PATH", help="weights, where MODEL is only a name")
    add("--tokenizer", type=Path, metavar="PATH", help="tokenizer.json, tokenizer.model or .gguf")
    add("--target", metavar="NAMES",
        help="AOTI instruction sets, one or several with commas: " + ", ".join(TARGETS) +
             " (default: any CPU of this machine's architecture; native with stock kernels)")  # fmt: skip
    add("--runtime", default="auto", choices=RUNTIMES,
        help="what an AOTI artifact runs on: lean, aoti_run as it is; torch, aoti_run built with "
             "libtorch (auto: lean where its code needs no more)")  # fmt: skip
    add("--max-autotune", action="store_true", help="AOTI, stock kernels: try several, slower export")
    add("--verbose", action="store_true", help="show the libraries' own messages and tracebacks")
    add("--version", action="version", version=f"exporter {__version__}")
    return parser


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _request(options: argparse.Namespace) -> Request:
    stem = model_name(options.model)

    def path(value: str | None, suffix: str) -> Path | None:
        return None if value is None else Path(value or f"{stem}{suffix}")

    outputs = Outputs(
        pte=path(options.output_pte, ".pte"),
        package=path(options.output_aoti_package, ".pt2"),
        library=path(options.output_dso, ".so"),
    )
    if not outputs.paths():
        raise UsageError(
            "no output asked for; add --output-pte, --output-aoti-package or --output-dso"
        )
    _refuse_collisions(outputs)
    cache_dtype = CACHE_DTYPES[options.cache_dtype]
    if cache_dtype is not None and options.delegate != LOWBIT:
        raise UsageError(
            f"--cache-dtype {options.cache_dtype} is for --delegate {LOWBIT}; "
            f"{options.delegate} kernels cache in the model's dtype: leave it out"
        )
    try:
        recipe = parse_recipe(options.quantize)
        resolve_device(options.device, recipe)
        if options.target is not None:
            find_targets(options.target)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Request(
        model=options.model,
        outputs=outputs,
        recipe=recipe,
        checkpoint=options.checkpoint,
        tokenizer=options.tokenizer,
        dtype=options.dtype,
        max_seq_length=options.max_seq_length,
        target=options.target,
        runtime=options.runtime,
        max_autotune=options.max_autotune,
        delegate=options.delegate,
        cache_dtype=cache_dtype,
    )


def _refuse_collisions(outputs: Outputs) -> None:
    files = [path.resolve() for path in outputs.files()]
    for path in files:
        if files.count(path) > 1:
            raise UsageError(f"two outputs are the file {path}; give them different paths")


def _quiet(verbose: bool) -> None:
    """Keep the libraries' warnings off stderr, which carries our own lines."""
    if verbose:
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
