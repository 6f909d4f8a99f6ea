"""Read a `.pt2`, or a `.so` with its `.so.json`, as `contents.Artifact`."""

import base64
import binascii
import io
import json
import math
import struct
import zipfile
from collections import Counter
from pathlib import Path

from exporter.artifact.contents import (
    CODE_PART,
    METADATA_PART,
    PT2,
    SO,
    TOKENIZER_PART,
    Artifact,
    Damaged,
    StoredTensor,
    all_names,
    canonical,
    recipe_in_metadata,
    stored,
    summed,
)
from exporter.artifact.metadata import TOKENIZER_KEY, sidecar_of
from exporter.recipe.schemes import LOWBIT, TOKEN_SCALE_SCHEMES

_METADATA = "/data/aotinductor/model/model_metadata.json"
_WEIGHTS = "/data/aotinductor/model/model_weights.blob"
_TABLE = "/tokenizer/table"
_LOCAL_HEADER = 30
_WIDTHS = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4,
           "float32": 4, "int64": 8, "float64": 8}  # fmt: skip


def read_pt2(path: Path, data: memoryview) -> Artifact:
    """Read the `.pt2` at `path`, whose bytes are `data`. Raises Damaged."""
    entries, said, tokenizer = _members(data)
    metadata = _strings(said)
    blob, blob_at = memoryview(b""), 0
    if _WEIGHTS in entries:
        info = entries[_WEIGHTS]
        if info.compress_type != zipfile.ZIP_STORED:
            raise Damaged("its weights are compressed")
        header = data[info.header_offset : info.header_offset + _LOCAL_HEADER]
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        blob_at = info.header_offset + _LOCAL_HEADER + lengths
        blob = data[blob_at : blob_at + info.file_size]
        if len(blob) != info.file_size:
            raise Damaged("it ends before its weights do")
    code = sum(
        info.file_size for name, info in entries.items()
        if name.endswith(".so") and name.startswith("/data/aotinductor/")
    )  # fmt: skip
    weights = _weights(metadata, blob, blob_at)
    parts = Counter({TOKENIZER_PART: len(tokenizer), CODE_PART: code})
    return _artifact(path, PT2, len(data), metadata, tokenizer, parts, weights)


def _members(data: memoryview) -> tuple[dict[str, zipfile.ZipInfo], bytes, bytes]:
    """Return the archive's directory by inner names, and the bytes of the metadata and the tokenizer.

    Raises Damaged for what zipfile raises where bytes are not what they were.
    """
    try:
        with zipfile.ZipFile(io.BufferedReader(_Mapped(data))) as archive:
            entries = {_inner(info.filename): info for info in archive.infolist()}
            if _METADATA not in entries:
                raise Damaged("it is an archive without an AOTInductor model")
            if any(entries[name].compress_type for name in (_METADATA, _TABLE) if name in entries):
                raise Damaged("its metadata are compressed")
            tokenizer = archive.read(entries[_TABLE]) if _TABLE in entries else b""
            return entries, archive.read(entries[_METADATA]), tokenizer
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, struct.error,
            UnicodeDecodeError) as error:  # fmt: skip
        raise Damaged(f"its archive cannot be read ({error})") from error


def read_so(path: Path, data: memoryview) -> Artifact:
    """Read the `.so` at `path`, whose bytes are `data`. Raises Damaged, and OSError without the file beside
    it."""
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        raise FileNotFoundError(
            f"{sidecar} is missing: the library's metadata lie in it; keep the two together"
        )
    said = sidecar.read_bytes()
    metadata = _strings(said, sidecar.name)
    encoded = metadata.pop(TOKENIZER_KEY, "")
    try:
        tokenizer = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise Damaged(f"the tokenizer in {sidecar.name} is not base64") from None
    blob, blob_at = _library_weights(data)
    weights = _weights(metadata, blob, blob_at)
    parts = Counter({
        TOKENIZER_PART: len(encoded), CODE_PART: len(data) - len(blob),
        METADATA_PART: len(said) - len(encoded),
    })  # fmt: skip
    return _artifact(path, SO, len(data) + len(said), metadata, tokenizer, parts, weights)


def _artifact(
    path: Path, kind: str, size: int, metadata: dict[str, str], tokenizer: bytes, parts: Counter,
    weights: tuple[StoredTensor, ...],
) -> Artifact:  # fmt: skip
    for tensor in weights:
        parts[tensor.part()] += len(tensor.data)
    lowbit = metadata.get("delegate") == LOWBIT
    unknown = ["how often each operator is called: the code does not tell"]
    if not weights:
        unknown.append("names, formats and sizes of the weights: they lie inside the code")
    functions = _json_list(metadata, "host_functions")
    operators = {
        f"lowbit::{name.removeprefix('aoti_torch_cpu_')}" if lowbit else name: None
        for name in functions if str(name).startswith("aoti_torch_cpu_")
    }  # fmt: skip
    return Artifact(
        path=path,
        kind=kind,
        size=size,
        metadata=metadata,
        tokenizer=tokenizer,
        sizes=summed(size, parts),
        weights=weights,
        operators=operators,
        delegates={},
        targets=tuple(_json_list(metadata, "targets")),
        token_scales=any(key in TOKEN_SCALE_SCHEMES for key in recipe_in_metadata(metadata)),
        cache_dtype=metadata.get("cache_dtype"),
        planned_bytes=None,
        unknown=tuple(unknown),
    )


def _inner(name: str) -> str:
    """Return the name without the archive's root folder, which PyTorch calls as the file was called."""
    return "/" + name.partition("/")[2]


def _strings(content: bytes, name: str = "its metadata") -> dict[str, str]:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        raise Damaged(f"{name} is not JSON") from None
    if not isinstance(said, dict):
        raise Damaged(f"{name} is not a JSON object")
    return {str(key): value if isinstance(value, str) else json.dumps(value)
            for key, value in said.items()}  # fmt: skip


def _json_list(metadata: dict[str, str], key: str) -> list:
    try:
        value = json.loads(metadata.get(key) or "[]")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise Damaged(f"its metadata '{key}' is not a JSON list")
    return value


def _weights(metadata: dict[str, str], blob: memoryview, at: int) -> tuple[StoredTensor, ...]:
    entries = _json_list(metadata, "weights")
    if not all(map(_is_weight, entries)):
        raise Damaged("its metadata 'weights' lack a name, a type, a shape or an offset")
    names = [canonical(entry["name"]) for entry in entries]
    result = []
    for name, entry in zip(names, entries, strict=True):
        if entry["dtype"] not in _WIDTHS:
            raise Damaged(f"the weight {name} is of the unknown type {entry['dtype']}")
        size = math.prod(entry["shape"]) * _WIDTHS[entry["dtype"]]
        start = entry["offset"]
        if not 0 <= start <= start + size <= len(blob):
            raise Damaged(f"the weight {name} lies outside the stored weights")
        data = blob[start : start + size]
        result.append(stored(all_names(name, names), entry["dtype"], tuple(entry["shape"]), data, at + start))
    return tuple(result)


def _is_weight(entry: object) -> bool:
    """Tell whether an entry of the list of weights has the name, type, shape and offset that each must
    have."""
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        return False
    sizes = (*entry["shape"], entry.get("offset"))
    return all(type(size) is int and size >= 0 for size in sizes) and all(
        isinstance(entry.get(key), str) for key in ("name", "dtype")
    )


def _library_weights(data: memoryview) -> tuple[memoryview, int]:
    """Return what lies between the symbols of a lean library, and its offset; empty for others."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(_Mapped(data))
        ends = {}
        for section in elf.iter_sections("SHT_DYNSYM"):
            for symbol in section.iter_symbols():
                if symbol.name in ("aoti_weights_start", "aoti_weights_end"):
                    ends[symbol.name] = symbol["st_value"]
        if len(ends) < 2:
            return memoryview(b""), 0
        start = ends["aoti_weights_start"]
        size = ends["aoti_weights_end"] - start
        offset = next(elf.address_offsets(start, size), None)
    except (ELFError, AttributeError, ValueError) as error:
        raise Damaged(f"it is no library ({' '.join(str(error).split()) or 'cut short'})") from None
    if offset is None or offset + size > len(data):
        raise Damaged("it ends before its weights do")
    return data[offset : offset + size], offset


class _Mapped(io.RawIOBase):
    """A file over a view of memory, which is not copied."""

    def __init__(self, data: memoryview):
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, len(self._data))[whence]
        if base + offset < 0:
            raise OSError("a seek before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
