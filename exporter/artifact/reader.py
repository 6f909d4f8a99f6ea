"""Read any artifact without running it, told apart by content.

Neither torch nor ExecuTorch is imported. The file is mapped: a weight's bytes are a view, and what
nobody looks at is not read.
"""

import mmap
from pathlib import Path

from exporter.artifact import aoti_reader, pte_reader
from exporter.artifact.contents import Artifact, Damaged
from exporter.artifact.pte_program import IDENTIFIER


def read_artifact(path: Path | str) -> Artifact:
    """Read `path`, a `.pte`, a `.pt2` or a `.so` with its `.so.json`; told apart by content.

    Raises ValueError or OSError with one line that names the file and what to do.
    """
    path = Path(path)
    data = map_file(path)
    start = bytes(data[:8])
    if start[4:8] == IDENTIFIER:
        read = pte_reader.read_pte
    elif start[:4] == b"PK\x03\x04":
        read = aoti_reader.read_pt2
    elif start[:4] == b"\x7fELF":
        read = aoti_reader.read_so
    else:
        raise ValueError(
            f"{path} is no artifact: neither a .pte, a .pt2 nor a .so; give one that "
            "`python -m exporter` wrote"
        )
    try:
        return read(path, data)
    except Damaged as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}; export it again") from error


def map_file(path: Path) -> memoryview:
    """Map a file's bytes, read-only. Raises OSError or ValueError that names the file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the path")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the artifact in it")
    with path.open("rb") as file:
        if path.stat().st_size < 64:
            raise ValueError(f"{path} is too short to be an artifact: export it again")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
