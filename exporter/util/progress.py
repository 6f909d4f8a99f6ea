"""Progress on stderr: a line when a stage begins, signs of life while it lasts, its time at the end."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEARTBEAT_SECONDS = 10
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
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)
