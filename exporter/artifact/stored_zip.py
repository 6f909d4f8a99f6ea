"""Write files into a zip archive so that whoever maps the archive uses them where they lie."""

import struct
import zipfile
from collections.abc import Iterable

FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive can tell
_PADDING_FIELD = 0x4246  # "FB", as PyTorch's own writer marks it
_FIELD_HEADER = 4
_LOCAL_HEADER, _ZIP64_FIELD = 30, 20


def add_stored(
    archive: zipfile.ZipFile, name: str, size: int, pieces: Iterable[memoryview | bytes], alignment: int
) -> None:
    """Add `pieces`, `size` bytes in all, as the file `name`: not compressed, at a multiple of `alignment`."""
    info = zipfile.ZipInfo(name, date_time=FIRST_DAY)
    info.file_size = size
    zip64 = size > zipfile.ZIP64_LIMIT // 2
    header = _LOCAL_HEADER + len(info.filename.encode()) + (_ZIP64_FIELD if zip64 else 0)
    start = archive.start_dir + header + _FIELD_HEADER
    padding = -start % alignment
    info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=zip64) as out:
        for piece in pieces:
            out.write(piece)
