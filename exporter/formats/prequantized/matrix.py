"""A matrix that is stored quantized, and what its readers share: small floats, packed integers, groups."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from exporter.formats.file_tensor import Directory, FileTensor


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix of `shape`, outputs and inputs, made of tensors named `parts`. `floats()` reads it as float32;
    `format` says how it is stored, for people."""

    shape: tuple[int, int]
    parts: tuple[str, ...]
    format: str
    floats: Callable[[], np.ndarray]


def modules_with(tensors: Directory, ending: str, ends: Collection[str]) -> dict[str, dict[str, FileTensor]]:
    """Return the tensors of each module that has one with `ending`, by those of `ends` that it has."""
    modules = [name.removesuffix(ending) for name in tensors if name.endswith(ending)]
    return {
        module: {end: tensors[module + end] for end in ends if module + end in tensors} for module in modules
    }


def float_values(tensor: FileTensor, dtype: str | None = None) -> np.ndarray:
    """Read a tensor of floats, 8-bit ones among them, as float32; `dtype` is what its bits are where its own
    type does not say it. Raises ValueError for another type."""
    bits, dtype = tensor.bits(), dtype or tensor.dtype
    if dtype in ("F64", "F32", "F16"):
        return bits.view(f"f{bits.itemsize}").astype(np.float32)
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype in _SMALL:
        return _SMALL[dtype][bits]
    raise ValueError(f"{tensor.path}: a scale or weight holds {tensor.dtype}, not floats: download it again")


def signed_values(tensor: FileTensor) -> np.ndarray:
    """Read a tensor of signed integers as float32."""
    bits = tensor.bits()
    return bits.view(f"i{bits.itemsize}").astype(np.float32)


def in_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 values to those of a type of 16 bits, to nearest and ties to even; others stay."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def _e4m3() -> np.ndarray:
    """Return the values of OCP's E4M3 (arXiv 2209.05433) without infinities, by their bits."""
    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    value[(code & 127) == 127] = np.nan
    return np.where(code >> 7 == 1, -value, value).astype(np.float32)


def _e5m2() -> np.ndarray:
    """Return the values of E5M2, which are float16's upper halves."""
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


def _e8m0() -> np.ndarray:
    """Return the powers of two of E8M0, which has no sign and no zero."""
    powers = np.ldexp(np.float32(1), np.arange(255) - 127).astype(np.float32)
    return np.append(powers, np.float32(np.nan))


_SMALL = {"F8_E4M3": _e4m3(), "F8_E5M2": _e5m2(), "F8_E8M0": _e8m0()}


def unpacked(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack `count` unsigned integers of `bits` from each row of 32-bit words, lowest bits first; a value
    goes on in the next word where 32 is no multiple of its bits. Returns uint8 [rows, count]."""
    data = np.ascontiguousarray(words).astype("<u4", copy=False).view(np.uint8)
    if bits == 8:
        return data[:, :count]
    if 8 % bits == 0:
        return unpacked_bytes(data, bits)[:, :count]
    single = np.unpackbits(data, axis=1, count=count * bits, bitorder="little")
    weights = 1 << np.arange(bits, dtype=np.uint8)
    return (single.reshape(len(data), count, bits) * weights).sum(2, dtype=np.uint8)


def unpacked_bytes(data: np.ndarray, bits: int) -> np.ndarray:
    """Unpack the unsigned integers of 1, 2 or 4 `bits` from each row of bytes, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (data[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return values.reshape(len(data), -1)


def check_shape(name: str, tensor: FileTensor, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError where a tensor has none of `shapes`."""
    if tensor.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"tensor {name} is {list(tensor.shape)}, not {wanted}: download it again")


def check_type(name: str, tensor: FileTensor, *types: str) -> None:
    """Raise ValueError where a tensor has none of `types`, as safetensors names them."""
    if tensor.dtype not in types:
        raise ValueError(f"tensor {name} holds {tensor.dtype}, not {' or '.join(types)}: download it again")


def spread(scales: np.ndarray, columns: int) -> np.ndarray:
    """Repeat each row's scales over its `columns`: of groups of the same size, the last of which may be
    shorter."""
    groups = scales.shape[1]
    return np.repeat(scales, -(-columns // groups), axis=1)[:, :columns]
