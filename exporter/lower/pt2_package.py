"""Write a `.pt2`: the zip archive that PyTorch's `aoti_load_package` reads, and our runners map.

Everything is stored without compression, the weights on a page's boundary, so that the runner uses
them where they lie. Source of the layout: torch 2.13, `torch/export/pt2_archive/`.
"""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from exporter.artifact.stored_zip import add_stored
from exporter.lower.targets import Target

MODEL = "model"  # the folder of the model that PyTorch's loader takes
ALIGNMENT = 16384  # a page of any of the systems we ship to
_ROOT = "model"
_AOTI = "data/aotinductor"


def code_name(target: Target) -> str:
    """Name the file of a target's code in its folder."""
    return "model.o" if target.linked else "model.so"


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
        """Write the code in `folder`, under `code_name`, or a file beside it."""
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
        add_stored(self._archive, f"{_ROOT}/{name}", size, pieces, alignment)


def tensor_bytes(tensors: Iterable, alignment: int) -> Iterator[memoryview | bytes]:
    """Yield the bytes of contiguous CPU tensors, each padded to `alignment` bytes."""
    import torch

    for tensor in tensors:
        flat = tensor.detach().reshape(-1).view(torch.uint8).numpy()
        yield memoryview(flat)
        if padding := -flat.nbytes % alignment:
            yield bytes(padding)
