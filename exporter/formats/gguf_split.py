"""Read a GGUF model that is split into files, as `llama-gguf-split` writes them: NAME-00001-of-00003.gguf.

The first file has the model's fields; every one says which it is (`split.no`, from 0), how many there are
(`split.count`), and how many tensors they hold together (`split.tensors.count`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from exporter.formats.gguf_file import GGUFFile, GGUFTensor, read_gguf

PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def whole_names(paths: Iterable[Path]) -> list[Path]:
    """Return files that are no parts, and the first path of each split model."""
    first: dict[str, Path] = {}
    for path in sorted(paths):
        part = PART.fullmatch(path.name)
        first.setdefault(path.name if part is None else f"{part['name']}-{part['count']}", path)
    return list(first.values())


def read_whole_gguf(path: Path) -> GGUFFile:
    """Read a GGUF model, all its parts where `path` is one of several; the result's path is the first's.

    Raises ValueError for parts that do not belong together, FileNotFoundError naming one that is missing,
    and what `read_gguf` raises.
    """
    part = PART.fullmatch(path.name)
    if part is None:
        file = read_gguf(path)
        count = file.fields.get("split.count", 1)
        if count not in (0, 1):
            raise ValueError(
                f"{path} is part {_number(file)} of {count}, whose others are found by names such as "
                f"{path.stem}-00001-of-{count:05}.gguf: give the parts their own names back"
            )
        return file
    count = int(part["count"])
    paths = [path.with_name(f"{part['name']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [place for place in paths if not place.is_file()]
    if missing or not paths:
        raise FileNotFoundError(
            f"{path} is one of {count} parts, of which {len(missing)} are missing ({missing[0].name} first): "
            "download the rest"
            if missing else f"{path} is named as one of 0 parts: give the parts their own names back"
        )  # fmt: skip
    return _joined([read_gguf(place) for place in paths])


def _number(file: GGUFFile) -> object:
    number = file.fields.get("split.no")
    return number + 1 if isinstance(number, int) else number


def _joined(files: list[GGUFFile]) -> GGUFFile:
    first, tensors = files[0], dict[str, GGUFTensor]()
    for number, file in enumerate(files):
        said = (file.fields.get("split.no"), file.fields.get("split.count"))
        if len(files) > 1 and said != (number, len(files)):
            raise ValueError(
                f"{file.path} says that it is part {_number(file)} of {said[1]}, not what its name says: "
                "download it again"
            )
        if twice := tensors.keys() & file.tensors.keys():
            raise ValueError(f"{file.path}: tensor {min(twice)} is in another part, too: download them again")
        tensors |= file.tensors
    wanted = first.fields.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise ValueError(
            f"{first.path} says that its parts hold {wanted} tensors, but they hold {len(tensors)}: download "
            "them again"
        )
    data = {path: mapped for file in files for path, mapped in file.data.items()}
    return replace(first, tensors=tensors, data=data)
