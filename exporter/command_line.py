"""What the verbs' command lines share: errors of usage, number types, exit statuses."""

import argparse
import math
from collections.abc import Callable

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
EXIT_NO_READER = 141  # as a shell says of a program that SIGPIPE ended


class UsageError(Exception):
    """What the user typed cannot be read; exit status 2."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit; takes no abbreviated flags."""

    def __init__(self, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _at_least(text, 1)


def not_negative(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _at_least(text, 0)


def seed(text: str) -> int:
    """A whole number from 0 below 2^63, for argparse."""
    value = not_negative(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is too large a seed: use one below 2^63")
    return value


def positive_list(text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between, for argparse."""
    return [positive(part) for part in text.split(",")]


def not_negative_list(text: str) -> list[int]:
    """Whole numbers of at least 0 with commas between, for argparse."""
    return [not_negative(part) for part in text.split(",")]


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A type of finite numbers from `least` to `most`, for argparse."""
    limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return parse


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value
