"""The scripts' manners: errors are one line; status 2 for a wrong command line, 1 for a failure."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from exporter.cli import command_line
from exporter.cli.command_line import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    UsageError,
    positive,
)
from exporter.util.errors import first_line

__all__ = ("ROOT", "Parser", "UsageError", "exit_status", "first_line", "note", "positive")

ROOT = Path(__file__).resolve().parent.parent.parent
START = time.monotonic()


class Parser(command_line.Parser):
    """The exporter's, for programs that have one help alone."""

    def error(self, message: str):
        raise UsageError(f"{message}; see --help")


def note(text: str) -> None:
    """A line on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - START:4.0f}s] {text}", file=sys.stderr, flush=True)


def exit_status(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """main's status, or the status of what it raised, which is named in one line on stderr."""
    try:
        return main(arguments)
    except UsageError as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    except (ValueError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED

