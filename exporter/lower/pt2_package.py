"""Write a `.pt2`: the zip archive that PyTorch's `aoti_load_package` reads, and our runners map.

Everything is stored without compression, the weights on a page's boundary, so that the runner uses
them where they lie. Source of the layout: torch 2.13, `torch/export/pt2_archive/`.
"""

import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

MODEL = "model"  # the folder of the model that PyTorch's loader takes
ALIGNMENT = 16384  # a page of any of the systems we ship to
_ROOT = "model"
_AOTI = "data/aotinductor"
_PADDING_FIELD = 0x4246  # "FB", as PyTorch's own writer marks it
_FIELD_HEADER = 4
_LOCAL_HEADER, _ZIP64_FIELD = 30, 20


class Pt2Writer:
    """A writer of one archive, used in a `with` block; each method but `file` is called once."""

    def __init__(self, path: Path):
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._write("archive_format", b"pt2")
        self._write("archive_version", b"0")
        self._write("byteorder", b"little")
        self._write(".data/version", b"6\n")

    def __enter__(self) -> "Pt2Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def metadata(self, text: str) -> None:
        self._write(f"{_AOTI}/{MODEL}/model_metadata.json", text.encode())

    def file(self, folder: str, name: str, path: Path) -> None:
        """Write a file beside the code in `folder`; `model.so` is the code."""
        with path.open("rb") as file:
            pieces = iter(lambda: file.read(1 << 22), b"")
            self._stream(f"{_AOTI}/{folder}/{name}", path.stat().st_size, pieces, ALIGNMENT)

    def weights(self, size: int, pieces: Iterable[memoryview | bytes]) -> None:
        """Write the weights, `size` bytes in all."""
        self._stream(f"{_AOTI}/{MODEL}/model_weights.blob", size, pieces, ALIGNMENT)

    def tokenizer(self, table: bytes) -> None:
        self._write("tokenizer/table", table)  # not in extra/, which PyTorch reads as text

    def _write(self, name: str, content: bytes) -> None:
        self._stream(name, len(content), [content], 64)

    def _stream(
        self, name: str, size: int, pieces: Iterable[memoryview | bytes], alignment: int
    ) -> None:
        info = zipfile.ZipInfo(f"{_ROOT}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
        info.file_size = size
        zip64 = size > zipfile.ZIP64_LIMIT // 2
        header = _LOCAL_HEADER + len(info.filename) + (_ZIP64_FIELD if zip64 else 0)
        start = self._archive.start_dir + header + _FIELD_HEADER
        padding = -start % alignment
        info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
        with self._archive.open(info, "w", force_zip64=zip64) as out:
            for piece in pieces:
                out.write(piece)


def tensor_bytes(tensors: Iterable, alignment: int) -> Iterator[memoryview | bytes]:
    """Yield the bytes of contiguous CPU tensors, each padded to `alignment` bytes."""
    import torch

    for tensor in tensors:
        flat = tensor.detach().reshape(-1).view(torch.uint8).numpy()
        yield memoryview(flat)
        if padding := -flat.nbytes % alignment:
            yield bytes(padding)
