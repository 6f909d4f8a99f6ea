"""Read a UTF-8 text file that a flag names."""

from pathlib import Path


def read_text(path: Path, flag: str) -> str:
    """Read the file's text, line ends as they are and without a byte order mark.

    Raises FileNotFoundError, IsADirectoryError, or ValueError for a file that is empty or not
    UTF-8, with a line that names `flag`, `path` and the remedy.
    """
    named = f"{flag} {path}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{named}: no such file; give a UTF-8 text file") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{named}: is a folder; give a text file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = len(data) - len(error.object) + error.start  # the mark counts
        raise ValueError(
            f"{named}: not UTF-8 (byte 0x{data[at]:02x} at offset {at}); "
            "convert it: iconv -f ENCODING -t UTF-8 FILE"
        ) from None
    if not text.strip():
        raise ValueError(f"{named}: is empty; give a file with text")
    return text
