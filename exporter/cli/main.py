"""Run the command line: `python -m exporter MODEL --output-pte`, and verbs."""

import logging
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from exporter.checkpoint.known_models import MODELS
from exporter.cli.command_line import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_NO_READER,
    EXIT_USAGE,
    Parser,
    UsageError,
)
from exporter.cli.verbs import VERBS, verb_module
from exporter.recipe.other_names import VERB_ANSWERS
from exporter.recipe.schemes import support_table
from exporter.util.errors import first_line
from exporter.util.native_files import INSTALL_EXPORT
from exporter.util.nearest import hint, nearest
from exporter.util.progress import note

PROGRAM = "python -m exporter"
VERBOSE = ("-v", "--verbose")
LIKE_A_VERB = 0.82  # folders and files have names like verbs' too


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status. Errors are one line on stderr."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            return _dispatch(list(arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError as error:
        return _without_reader() or _fail(first_line(error), arguments)
    except UsageError as error:
        note(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        note("interrupted; nothing half-written was left behind")
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        return _fail(first_line(error), arguments)
    except ModuleNotFoundError as error:
        return _fail(
            f"this needs the package {error.name}, which is not installed; install what exporting needs: "
            f"{INSTALL_EXPORT}", arguments,
        )  # fmt: skip
    except Exception as error:  # a defect of ours or of a library: still one line
        name = type(error).__name__
        return _fail(f"{name}: {first_line(error)} (--verbose shows where)", arguments)


def _without_reader() -> int | None:
    """Return the exit status where stdout's reader, as `head`, has gone; None where it is there."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not written yet
    return EXIT_NO_READER


def _interrupt(signal_number, frame):
    """End the program as an interrupt does, so that what was half-written is removed."""
    raise KeyboardInterrupt


def _fail(message: str, arguments: Sequence[str]) -> int:
    if any(flag in arguments for flag in VERBOSE):
        traceback.print_exc()
    note(f"error: {message}")
    return EXIT_FAILURE


def _dispatch(arguments: list[str]) -> int:
    name = _verb(arguments)
    verb = verb_module(name or "export")
    if name is None:
        parser = Parser(
            owners=_owners,
            prog=PROGRAM,
            description="Export a language model to an artifact that a native runner reads.",
            epilog=_epilog(),
        )
    else:
        parser = Parser(owners=_owners, prog=f"{PROGRAM} {name}", description=verb.__doc__)
    verb.configure(parser)
    parser.add_argument(*VERBOSE, action="store_true",
                        help="show the libraries' own messages and tracebacks")  # fmt: skip
    options = parser.parse_args(arguments if name is None else arguments[1:])
    _quiet(options.verbose)
    return verb.run(options)


def _verb(arguments: Sequence[str]) -> str | None:
    """Return the verb that the first word is; None for a model, which is exported.

    Raises UsageError for a word that is neither a verb, an alias nor a path, but another project's verb,
    spelled like a verb, or all that there is to go by.
    """
    word = arguments[0] if arguments else "-"
    if word in VERBS:
        return word
    if word.startswith("-") or word in MODELS or Path(word).exists():
        return None
    if word in VERB_ANSWERS:
        raise UsageError(f"{word}: {VERB_ANSWERS[word]}; see {PROGRAM} --help")
    named = any(flag.startswith(("--checkpoint", "--gguf")) for flag in arguments)  # MODEL is only a name
    if named or "/" in word:
        return None
    beside = [path.name for path in Path().iterdir()]
    unknown = f"there is no verb, alias or path {word!r}"
    near = nearest(word, (*beside, *MODELS, *VERB_ANSWERS, *VERBS), LIKE_A_VERB)
    if near in VERBS:
        raise UsageError(f"{unknown} (did you mean {near}?); see {PROGRAM} --help")
    if near in VERB_ANSWERS:
        raise UsageError(f"{unknown}; {near}: {VERB_ANSWERS[near]}; see {PROGRAM} --help")
    if any(flag.startswith("--output") for flag in arguments):
        return None  # whose error names what a model may be
    raise UsageError(f"{unknown}{hint(word, (*beside, *MODELS))}; see {PROGRAM} --help")


def _owners(flag: str) -> list[str]:
    """List the verbs that have `flag`."""
    found = []
    for name in VERBS:
        parser = Parser()
        verb_module(name).configure(parser)
        if parser.has(flag):
            found.append(name)
    return found


def _epilog() -> str:
    summaries = {name: verb_module(name).SUMMARY for name in VERBS}
    verbs = "\n".join(f"  {PROGRAM} {name:9} {text}" for name, text in summaries.items())
    return f"""verbs (each has a --help of its own):
{verbs}

schemes, and the delegates that run them on each backend:

{support_table()}

examples:
  python -m exporter smollm2 --output-pte
  python -m exporter ./my-model --output-pte m.pte --output-aoti-package m.pt2
  python -m exporter smollm2 --output-pte --quantize q4
"""


def _quiet(verbose: bool) -> None:
    """Keep the libraries' warnings off stderr, which carries our own lines."""
    if verbose:
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
