"""Write a folder as an archive, with the same bytes every time it is made of the same files."""

import gzip
import tarfile
import zipfile
from pathlib import Path

from exporter.artifact.stored_zip import FIRST_DAY

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".zip")
_OTHER_SUFFIXES = (".tar", ".tar.xz", ".tar.zst", ".tar.bz2", ".7z", ".rar", ".gz", ".xz")


def is_archive(path: Path) -> bool:
    """Tell whether a path is an archive's by its name; otherwise it is a folder's.

    Raises ValueError for the name of an archive that is not written here, and for one that is all suffix.
    """
    name = path.name
    if name.endswith(ARCHIVE_SUFFIXES):
        if top_of(name) in ("", ".", ".."):
            raise ValueError(f"{path}: its folder would have no name; put one before {name.lstrip('.')}")
        return True
    if name.lower().endswith((*ARCHIVE_SUFFIXES, *_OTHER_SUFFIXES)):
        raise ValueError(f"{path}: archives end in {', '.join(ARCHIVE_SUFFIXES)}; choose one of them")
    return False


def top_of(name: str) -> str:
    """Name the folder in an archive: the archive's own name without its format."""
    return next((name.removesuffix(s) for s in ARCHIVE_SUFFIXES if name.endswith(s)), name)


def write_archive(folder: Path, path: Path, name: str) -> None:
    """Write the files of `folder` to `path`; `name` says the format by its suffix and the folder in it.

    Weights do not compress: archives are made fast rather than small.
    """
    top = top_of(name)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if name.endswith(".zip"):
        _write_zip(files, folder, top, path)
    else:
        _write_tar(files, folder, top, path)


def _mode(file: Path) -> int:
    return 0o755 if file.stat().st_mode & 0o100 else 0o644


def _write_tar(files: list[Path], folder: Path, top: str, path: Path) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for file in files:
                info = tarfile.TarInfo(f"{top}/{file.relative_to(folder).as_posix()}")
                info.size, info.mode = file.stat().st_size, _mode(file)
                with file.open("rb") as data:
                    archive.addfile(info, data)


def _write_zip(files: list[Path], folder: Path, top: str, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            info = zipfile.ZipInfo(f"{top}/{file.relative_to(folder).as_posix()}", FIRST_DAY)
            info.create_system, info.external_attr = 3, (0o100000 | _mode(file)) << 16
            with file.open("rb") as data, archive.open(info, "w", force_zip64=True) as member:
                while block := data.read(1 << 20):
                    member.write(block)
