"""Share what the verbs' command lines have in common: errors of usage, number types, exit statuses."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence

from exporter.recipe.other_names import FLAG_ANSWERS, SAME_FLAGS
from exporter.util.nearest import hint

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
EXIT_NO_READER = 141  # as a shell says of a program that SIGPIPE ended
FLAG = re.compile(r"--?[A-Za-z][\w-]*(=.*)?", re.DOTALL)


class UsageError(Exception):
    """A command line that cannot be read; exit status 2."""


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError where argparse would print and exit, and takes no abbreviated flags.

    Underscores in a flag are dashes, and the spellings of `other_names.SAME_FLAGS` are taken. `owners` says
    which other verbs have a flag that this parser lacks.
    """

    def __init__(self, owners: Callable[[str], Sequence[str]] = lambda flag: (), **options):
        self._owners = owners
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        return super().parse_args(self._spelled(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")

    def _spelled(self, words: Sequence[str]) -> list[str]:
        """Return `words` with flags as this parser spells them. Raises UsageError for an unknown one."""
        end = words.index("--") if "--" in words else len(words)
        return [*(self._flag(word) for word in words[:end]), *words[end:]]

    def _flag(self, word: str) -> str:
        if not FLAG.fullmatch(word):
            return word
        name, equals, value = word.partition("=")
        flags = self._option_string_actions  # argparse's own, which groups of arguments share
        if name in flags or word[:2] in flags:
            return word
        dashed = name[:2] + name[2:].replace("_", "-")
        ours = SAME_FLAGS.get(dashed, dashed)
        if ours in flags:
            return ours + equals + value
        if dashed in FLAG_ANSWERS:
            raise UsageError(f"{name} {FLAG_ANSWERS[dashed]}")
        if owners := self._owners(ours):
            self.error(f"{name} is no flag here, but of {' and '.join(owners)}")
        self.error(f"unknown flag {name}{hint(name, flags)}")

    def has(self, flag: str) -> bool:
        """Tell whether this parser takes `flag`, spelled as ours."""
        return flag in self._option_string_actions


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """Make a type of the words `names`, for argparse; a word that is none of them is answered with the
    nearest."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f"{text!r} is none of {', '.join(names)}{hint(text, names)}"
            )
        return text

    return parse


def positive(text: str) -> int:
    """Parse a whole number of at least 1, for argparse."""
    return _at_least(text, 1)


def not_negative(text: str) -> int:
    """Parse a whole number of at least 0, for argparse."""
    return _at_least(text, 0)


def seed(text: str) -> int:
    """Parse a whole number from 0 below 2^63, for argparse."""
    value = not_negative(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is too large a seed: use one below 2^63")
    return value


def positive_list(text: str) -> list[int]:
    """Parse whole numbers of at least 1 with commas between, for argparse."""
    return [positive(part) for part in text.split(",")]


def not_negative_list(text: str) -> list[int]:
    """Parse whole numbers of at least 0 with commas between, for argparse."""
    return [not_negative(part) for part in text.split(",")]


def number_between(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Make a type of finite numbers from `least` to `most`, for argparse."""
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
