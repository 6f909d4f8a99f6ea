"""A program in a terminal of its own, typed at and read as a person does."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time

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

    def end_input(self, seconds: float = 60) -> int:
        """Type the end of the input, once a second, until the program ends; return its exit status.

        libedit shows its prompt before it takes keys as they come: an end typed in between is lost.
        """
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.type(END)
            pause = time.monotonic() + 1
            while self._read(pause):
                pass
            time.sleep(max(min(pause, deadline) - time.monotonic(), 0))
        return self.process.wait(1)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._keyboard], [], [], max(deadline - time.monotonic(), 0))
        try:
            data = os.read(self._keyboard, 65536) if ready else b""
        except OSError:  # the program has closed its side
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)
