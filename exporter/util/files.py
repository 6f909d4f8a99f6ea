"""Write files whole or not at all, and name disks that are full or may not be written to."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_writable(path: Path) -> None:
    """Raise OSError with the remedy when a file cannot be written at `path`.

    Called before work starts, so that minutes of it are not lost to a wrong folder.
    """
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; create it or choose another output path")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it as the output")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder}: cannot write there ({error.strerror}); choose another output path"
        ) from None


def check_disk_full(message: str, output: Path | None = None) -> None:
    """Raise OSError when `message`, a compiler's or a library's in English, says that a disk is full: the
    bare one, for `disk_full_named`, or one that names the temporary folder where a file in it, and not
    `output`, could not be written."""
    for line in message.splitlines():
        if os.strerror(errno.ENOSPC) not in line and os.strerror(errno.EDQUOT) not in line:
            continue
        folder = tempfile.gettempdir()
        if f"{folder}/" in line and (output is None or str(output) not in line):
            raise OSError(f"{folder}: the disk is full; set TMPDIR to a folder with room")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def disk_full_named(where: str) -> Iterator[None]:
    """Raise OSError that names `where` and the remedy instead of the bare one of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"{where}: the disk is full; free some room and export again") from None
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it is renamed to `path` on success, removed otherwise.

    Raises OSError naming `path` and the remedy when the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        part = folder / path.name
        with disk_full_named(str(path)):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
