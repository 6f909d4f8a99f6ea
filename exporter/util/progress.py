"""Show on stderr what runs and how long it will: a stage's begin and end, lines of progress, time left."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

HEARTBEAT_SECONDS = 10
LINE_SECONDS = 5  # between lines of `ProgressLine` where stderr is no terminal
Report = Callable[[str], None]  # takes a line for people, as `note` does


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Announce `title`, report every ten seconds that it still runs, and say how long it took."""
    note(f"{title} ...")
    start = time.monotonic()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            note(f"  {title}: {time.monotonic() - start:.0f} s so far")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
        note(f"  done in {time.monotonic() - start:.1f} s")
    finally:
        done.set()
        thread.join()


def note(text: str) -> None:
    """Print one line on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Progress:
    """Work of `total` steps, timed from when this value is made; `before` steps were done by then."""

    total: int
    before: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.begun

    def left(self, done: int) -> str:
        """Say how long the steps after `done` take at the pace so far: `12 s left`."""
        timed = done - self.before
        seconds = self.elapsed / timed * (self.total - done) if timed else 0.0
        return f"{duration(seconds)} left"

    def line(self, step: str, done: int) -> str:
        """Say how far the work is: `packing: layer 3 of 30, 12 s left` for the step `packing: layer`."""
        return f"{step} {done} of {self.total}, {self.left(done)}"


def duration(seconds: float) -> str:
    """Write a time as `12 s` or `3 min 05 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


def at_most_once_a_second(report: Report) -> Report:
    """Make a `report` that drops lines within a second of the start or of the last one let through."""
    last = time.monotonic()

    def seldom(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1.0:
            last = now
            report(text)

    return seldom


class ProgressLine:
    """One line on stderr that is written over at a terminal, and else a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._width = 0

    def show(self, text: str) -> None:
        """Show `text` in place of what was shown before."""
        now = time.monotonic()
        if self._terminal:
            print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(text)
        elif now - self._last >= LINE_SECONDS:
            print(text, file=sys.stderr, flush=True)
            self._last = now

    def close(self) -> None:
        """End the line, so that others begin on one of their own."""
        if self._terminal and self._width:
            print(file=sys.stderr, flush=True)
            self._width = 0
