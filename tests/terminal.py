"""A program in a terminal of its own, typed at and read as a person does."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from pathlib import Path

INTERRUPT, END, UP, LEFT, BACKSPACE = "\x03", "\x04", "\x1b[A", "\x1b[D", "\x7f"


class Terminal:
    """A running program whose standard input, output and errors are one terminal."""

    def __init__(self, *arguments: object, term: str = "xterm") -> None:
        self._keyboard, screen = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            list(map(str, arguments)), stdin=screen, stdout=screen, stderr=screen,
            env={**os.environ, "TERM": term}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(screen)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keyboard)

    def type(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Read the screen until `text` is new on it."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert self._read(deadline), f"no {text!r} in {self.shown!r}"
        self.shown = self.shown.split(text, 1)[1]

    def wait_for_reply(self, seconds: float = 60) -> None:
        """Read the screen until there is more new on it than typed lines and prompts are."""
        deadline = time.monotonic() + seconds
        while len(self.shown) < 200:
            assert self._read(deadline), f"no reply in {self.shown!r}"
        self.shown = ""

    def end(self, seconds: float = 60) -> int:
        """The exit status, once the program has ended by itself."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 1))

    def press_at_prompt(self, key: str) -> None:
        """Type a key that acts at once, when the program reads.

        libedit shows its prompt a little before: a key that comes in between is lost.
        """
        asleep = 0
        while asleep < 5:  # the main thread sleeps, five times in a row
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.02)
        self.type(key)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._keyboard], [], [], max(deadline - time.monotonic(), 0))
        try:
            data = os.read(self._keyboard, 65536) if ready else b""
        except OSError:  # the program has closed its side
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)
