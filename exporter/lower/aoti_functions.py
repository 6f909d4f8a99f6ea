"""List the functions of PyTorch's C interface that the runner's own host has, and those that a library calls.

The host is `runner/backends/aoti_host/`; a test compares `host_functions` with what `aoti_run` exports.
"""

import re
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from exporter.lowbit import ops

_PREFIX = "aoti_torch_"
_ELEMENTS = (
    "float32", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "bool",
)  # fmt: skip
_OTHERS = (
    # constants
    "device_type_cpu", "device_type_cuda", "device_type_meta", "device_type_xpu", "device_type_mps",
    "device_type_privateuse1", "dtype_float16", "dtype_bfloat16", "dtype_element_size",
    "layout_strided", "memory_format_contiguous_format", "memory_format_preserve_format",
    "abi_version", "grad_mode_is_enabled", "grad_mode_set_enabled", "check", "warn",
    # properties of a tensor
    "get_data_ptr", "get_storage_size", "get_storage_numel", "get_dim", "get_numel", "get_sizes",
    "get_size", "get_strides", "get_stride", "get_dtype", "get_device_type", "get_device_index",
    "get_layout", "get_storage_offset", "is_contiguous", "is_defined",
    # handles and memory
    "delete_tensor_object", "new_tensor_handle", "new_uninitialized_tensor", "assign_tensors",
    "assign_tensors_out", "empty_strided", "create_tensor_from_blob", "create_tensor_from_blob_v2",
    "_reinterpret_tensor", "as_strided", "_alloc_from_pool", "clone", "clone_preserve_strides",
    "copy_", "tensor_copy_", "zero_",
)  # fmt: skip


def host_functions() -> frozenset[str]:
    """Return the functions of the interface, and those of our operators where they are loaded."""
    elements = (
        f"{kind}_{element}"
        for kind in ("dtype", "item", "scalar_to_tensor") for element in _ELEMENTS
    )  # fmt: skip
    operators = (f"cpu_{name}" for name in ops.table())
    return frozenset(_PREFIX + name for name in (*_OTHERS, *elements, *operators))


def called_functions(library: Path) -> tuple[str, ...]:
    """List the undefined symbols of a shared library that no system library brings, sorted.

    Those of libc, libm, libgcc and libstdc++ carry a version; PyTorch's and ours do not.
    Raises ValueError when the file is no ELF library.
    """
    with library.open("rb") as file:
        try:
            elf = ELFFile(file)
        except ELFError as error:
            raise ValueError(f"{library} is not a shared library: {error}") from None
        symbols = elf.get_section_by_name(".dynsym")
        versions = elf.get_section_by_name(".gnu.version")
        if symbols is None:
            raise ValueError(f"{library} is not a shared library")
        names = []
        for index, symbol in enumerate(symbols.iter_symbols()):
            undefined = symbol["st_shndx"] == "SHN_UNDEF" and symbol.name
            weak = symbol["st_info"]["bind"] == "STB_WEAK"
            versioned = versions is not None and isinstance(
                versions.get_symbol(index)["ndx"], int
            )
            if undefined and not weak and not versioned:
                names.append(symbol.name)
    return tuple(sorted(names))


def called_by_object(file: Path) -> tuple[str, ...]:
    """List the functions of PyTorch's interface that an object calls and does not bring, sorted.

    What else it calls is the C and C++ libraries', which its linker looks for. Raises ValueError when the
    file is no ELF object.
    """
    with file.open("rb") as data:
        try:
            symbols = ELFFile(data).get_section_by_name(".symtab")
        except ELFError as error:
            raise ValueError(f"{file} is no object file: {error}") from None
        return tuple(sorted(
            symbol.name for symbol in symbols.iter_symbols()
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name.startswith(_PREFIX)
        ))  # fmt: skip


def called_by_macos_library(file: Path) -> tuple[str, ...]:
    """List the functions of PyTorch's interface that a library of Mach-O calls, sorted.

    They are the names of its table of symbols, where C's have an underscore before them; a thunk is a jump to
    one, of zig's linker.
    """
    names = re.findall(rb"\0_(aoti_torch_\w+)(?=\0)", file.read_bytes())
    return tuple(sorted({name.decode() for name in names if not name.endswith(b"__thunk")}))


def not_covered(called: tuple[str, ...]) -> tuple[str, ...]:
    """List the functions of `called` that the runner's own host lacks."""
    known = host_functions()
    return tuple(name for name in called if name not in known)
