"""Read which tensors a file of `torch.save` holds, and where, without torch and without running its code.

The format since PyTorch 1.6 is a zip archive of stored members: `data.pkl`, a pickle in which tensors
name their storages, and `data/KEY`, a storage's bytes (docs of torch.serialization; caffe2/serialize).
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exporter.formats.file_kind import check_content
from exporter.formats.file_tensor import FileTensor
from exporter.formats.quantized_names import QUANTIZED_REMEDY
from exporter.formats.tensor_types import ITEM_BYTES, TORCH_NAMES

MEMBER_HEADER_BYTES = 30  # before a member's name; its last four are the lengths of name and extra field
ZIP_START = b"PK\x03\x04"
# The classes of typed storages, and torch's names of types, as safetensors names them.
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "UntypedStorage": "U8",
}  # fmt: skip
PLAIN_CLASSES = (
    ("torch", "Size"), ("torch", "device"), ("torch", "Tensor"), ("torch.nn.parameter", "Parameter"),
)  # fmt: skip
QUANTIZED_MODULES = ("torchao.", "torch.ao.", "hqq.", "optimum.quanto", "bitsandbytes.")
AS_SAFETENSORS = (
    "; or load it with transformers and a recent torchao, and save it again as safetensors (save_pretrained)"
)
SAFETENSORS_TYPES = {name: kind for kind, name in TORCH_NAMES.items()}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: str
    offset: int  # in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> Mapping[str, object]:
    """Read the file's dictionary: plain values, and a FileTensor for each tensor; dictionaries in it
    likewise.

    Raises ValueError for a file that is empty, damaged, of the older format or of other content, OSError
    for one that cannot be read.
    """
    check_content(path)
    with path.open("rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START:
            raise ValueError(
                f"{path} is no zip archive, as torch.save has written them since PyTorch 1.6: download it "
                "again, or load it with torch.load where it comes from and save it again"
            )
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    content = _unpickled(path, members)
    if isinstance(content, dict):
        return _placed(path, members, content)
    raise ValueError(
        f"{path} holds a {type(content).__name__}, not named tensors: give a checkpoint file"
    )


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Raise ValueError that names the file where zipfile finds it damaged."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): download it again") from error


def _unpickled(path: Path, members: Mapping[str, zipfile.ZipInfo]) -> object:
    if "data.pkl" not in members:
        raise ValueError(f"{path} is a zip archive, but not one of torch.save: give a checkpoint file")
    info = members["data.pkl"]
    with path.open("rb") as file:  # its checksum may be left out (set_crc32_options)
        file.seek(_data_start(path, info))
        data = file.read(info.file_size)
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} {error}") from error
    except Exception:  # whatever it is, a checksum that does not fit explains it
        with _damage_named(path), zipfile.ZipFile(path) as archive:
            archive.read(info)
        raise


class _Unpickler(pickle.Unpickler):
    """An unpickler that makes tensors' places and plain values, and refuses whatever else a pickle may ask
    for."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in PLAIN_CLASSES:
            return _plain
        if module in ("torch._utils", "torch._tensor") and name in _REBUILD:
            return _REBUILD[name]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in SAFETENSORS_TYPES:
            return SAFETENSORS_TYPES[name]
        if module.startswith(QUANTIZED_MODULES):
            raise pickle.UnpicklingError(
                f"holds weights quantized as {module}.{name}: {QUANTIZED_REMEDY}"
                + (AS_SAFETENSORS if module.startswith("torchao.") else "")
            )
        raise pickle.UnpicklingError(
            f"holds objects of {module}.{name}, not only tensors: save its state_dict alone, or convert it "
            "to safetensors"
        )

    def persistent_load(self, said: tuple) -> _Storage:
        kind, dtype, key, *_ = said
        if kind != "storage":
            raise pickle.UnpicklingError(f"refers to a {kind} outside: save its state_dict as safetensors")
        return _Storage(key, dtype)


def _plain(*values: object) -> tuple:
    return values


def _rebuild_v2(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
    return _Tensor(storage, storage.dtype, offset, tuple(shape), tuple(strides))


def _rebuild_v3(
    storage: _Storage, offset: int, shape: tuple, strides: tuple, gradient: bool, hooks: object,
    dtype: str, *_: object,
) -> _Tensor:  # fmt: skip
    return _Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: _Tensor, *_: object) -> _Tensor:
    return tensor


def _rebuild_with_attributes(
    rebuild: Callable[..., _Tensor], kind: object, arguments: tuple, *_: object
) -> _Tensor:
    return rebuild(*arguments)


_REBUILD = {
    "_rebuild_tensor_v2": _rebuild_v2,
    "_rebuild_tensor_v3": _rebuild_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
    "_rebuild_wrapper_subclass": _plain,  # names a class that is not a plain tensor's, which is refused
    "_rebuild_from_type_v2": _rebuild_with_attributes,
}


def _placed(path: Path, members: Mapping[str, zipfile.ZipInfo], content: Mapping) -> dict[str, object]:
    """Return `content` with the tensors' storages found in the file."""
    starts: dict[str, int] = {}
    file_bytes = path.stat().st_size

    def place(tensor: _Tensor) -> FileTensor:
        info = members.get(f"data/{tensor.storage.key}")
        if info is None:
            raise ValueError(f"{path} lacks the storage {tensor.storage.key}: download it again")
        if info.filename not in starts:
            starts[info.filename] = _data_start(path, info)
        size = ITEM_BYTES[tensor.dtype]
        last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
            raise ValueError(f"{path}: a tensor has a negative size: download it again")
        if 0 not in tensor.shape and size * (tensor.offset + last + 1) > info.file_size:
            raise ValueError(
                f"{path}: a tensor of shape {list(tensor.shape)} ends beyond its storage: download it again"
            )
        start = starts[info.filename] + size * tensor.offset
        return FileTensor(path, file_bytes, tensor.dtype, tensor.shape, start, tensor.strides)

    def found(value: object) -> object:
        if isinstance(value, _Tensor):
            return place(value)
        return {key: found(item) for key, item in value.items()} if isinstance(value, dict) else value

    return {str(key): found(value) for key, value in content.items()}


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Find where a member's bytes begin: the length of its own extra field is not in the directory."""
    start = max(0, info.header_offset)  # negative where the archive's directory is damaged
    with path.open("rb") as file:
        file.seek(start)
        header = file.read(MEMBER_HEADER_BYTES)
    stored = info.compress_type == zipfile.ZIP_STORED and header.startswith(ZIP_START)
    if len(header) < MEMBER_HEADER_BYTES or not stored:
        raise ValueError(f"{path}: {info.filename} is not stored as torch.save stores it: download it again")
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return start + MEMBER_HEADER_BYTES + sum(lengths)
