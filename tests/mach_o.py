"""Read what a program or library of macOS (Mach-O) says of itself, by macholib, and what macOS's own library
has, as zig knows it."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("macholib", reason="macholib is not here: run scripts/setup.sh test")
from macholib import mach_o  # noqa: E402
from macholib.MachO import MachO  # noqa: E402
from macholib.SymbolTable import SymbolTable  # noqa: E402

LIBSYSTEM = "/usr/lib/libSystem.B.dylib"
_ARM64 = 0x0100000C
_MACOS = 1
_LOADS = (mach_o.LC_LOAD_DYLIB, mach_o.LC_LOAD_WEAK_DYLIB, mach_o.LC_REEXPORT_DYLIB)
_ITSELF = 0


@dataclass(frozen=True)
class Image:
    """`imports` are pairs of a symbol and the library that it is looked for in, `exports` symbols; `system`
    is the oldest version of macOS, `pages` the places in the file where what is mapped begins, in bytes."""

    arm64: bool
    system: tuple[int, int]
    libraries: tuple[str, ...]
    rpaths: tuple[str, ...]
    imports: frozenset[tuple[str, str]]
    exports: frozenset[str]
    signed: bool
    pages: tuple[int, ...]


def read_image(path: Path) -> Image:
    file = MachO(str(path))
    (header,) = file.headers
    commands = [(load.cmd, command, data) for load, command, data in header.commands]
    (built,) = (command for kind, command, _ in commands if kind == mach_o.LC_BUILD_VERSION)
    assert built.platform == _MACOS
    libraries = tuple(_text(data) for kind, _, data in commands if kind in _LOADS)
    symbols = SymbolTable(file)
    imports = set()
    for entry, name in symbols.undefsyms:
        ordinal = entry.n_desc >> 8 & 0xFF
        assert ordinal != _ITSELF and ordinal <= len(libraries), (path, name, ordinal)
        imports.add((name.decode(), libraries[ordinal - 1]))
    segments = (command for kind, command, _ in commands if kind == mach_o.LC_SEGMENT_64)
    return Image(
        arm64=header.header.cputype == _ARM64,
        system=(built.minos >> 16, built.minos >> 8 & 0xFF),
        libraries=libraries,
        rpaths=tuple(_text(data) for kind, _, data in commands if kind == mach_o.LC_RPATH),
        imports=frozenset(imports),
        exports=frozenset(name.decode() for _, name in symbols.extdefsyms),
        signed=any(kind == mach_o.LC_CODE_SIGNATURE for kind, _, _ in commands),
        pages=tuple(segment.fileoff for segment in segments if segment.filesize),
    )


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode()


def symbols_of_libsystem() -> frozenset[str]:
    """Read the stub of macOS's C library that zig links with."""
    (folder,) = importlib.util.find_spec("ziglang").submodule_search_locations
    text = Path(folder, "lib/libc/darwin/libSystem.tbd").read_text()
    return frozenset(re.findall(r"[\w$.]+", text))
