"""Describe what a verification says: checks, and the line they come to."""

from collections.abc import Sequence
from dataclasses import dataclass

PASS, FAIL, SKIP, INFO = "pass", "fail", "skip", "info"


@dataclass(frozen=True)
class Check:
    """One question and its answer. `broken` says what is wrong in a few words, with its name first, for the
    verdict's line; `note` what was compared, or why not."""

    name: str
    verdict: str
    measured: str
    threshold: str
    broken: str = ""
    note: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict == FAIL


def check(
    name: str, good: bool, measured: object, threshold: object, broken: str = "", note: str = ""
) -> Check:
    """Make a check that passes when `good`."""
    said = broken or f"{measured}, {threshold}"
    return Check(name, PASS if good else FAIL, str(measured), str(threshold),
                 "" if good else said, note)  # fmt: skip


def told(name: str, measured: str, note: str = "") -> Check:
    """Make a check of something measured that has no threshold."""
    return Check(name, INFO, measured, "", note=note)


def skipped(name: str, why: str) -> Check:
    """Make a check that was not made, and say why."""
    return Check(name, SKIP, "not checked", "", note=why)


def equal(name: str, expected: object, actual: object) -> Check:
    """Make a check that the artifact's value is the checkpoint's."""
    return check(name, expected == actual, actual, f"equal to {expected}",
                 f"{actual} instead of {expected}")  # fmt: skip


def verdict_line(checks: Sequence[Check], summary: str) -> str:
    """Write `verified: SUMMARY`, or `NOT verified:` and what each failed check found."""
    failed = [c for c in checks if c.failed]
    if not failed:
        return f"verified: {summary}"
    return "NOT verified: " + "; ".join(f"{c.name}: {c.broken}" for c in failed)
