"""The scripts' manners: errors are one line; status 2 for a wrong command line, 1 for a failure."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
START = time.monotonic()


class UsageError(Exception):
    """What the user typed cannot be used."""


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line raises UsageError instead of printing the usage."""

    def error(self, message: str):
        raise UsageError(f"{message}; see --help")


def note(text: str) -> None:
    """A line on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - START:4.0f}s] {text}", file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


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


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
