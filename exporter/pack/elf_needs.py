"""Read what a program or library of ELF needs of the machine that loads it."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_VERSION = re.compile(r"([A-Z]+[A-Z_]*?)_(\d+(?:\.\d+)*)")  # GLIBC_2.34, GLIBCXX_3.4.30
# What a Linux with a C++ program on it has.
SYSTEM_LIBRARY = re.compile(
    r"(ld-linux-.*|libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)\.so\.\d+"
)


@dataclass(frozen=True)
class Needs:
    """Of one file: the machine as `uname -m` says it, the least alignment of what is mapped in bytes, the
    libraries by name, and the newest version of each set of symbols, such as GLIBC -> 2.34."""

    machine: str
    alignment: int
    libraries: tuple[str, ...]
    versions: Mapping[str, str]


def read_needs(data: bytes | memoryview, name: str) -> Needs:
    """Read the needs of an ELF file's bytes. Raises ValueError that names the file."""
    try:
        elf = ELFFile(io.BytesIO(data))
        if not isinstance(elf.get_section_by_name(".dynamic"), DynamicSection):
            raise ValueError("it has no table of what it needs")
        machine = elf.header["e_machine"]
        loads = [s["p_align"] for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        libraries, versions = [], {}
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                libraries += [tag.needed for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
            if isinstance(section, GNUVerNeedSection):
                for _, auxiliaries in section.iter_versions():
                    _add([a.name for a in auxiliaries], versions)
        return Needs(_MACHINES.get(machine, machine), min(loads), tuple(libraries), versions)
    except (ELFError, LookupError, ValueError, ArithmeticError, AssertionError, TypeError) as error:
        raise ValueError(f"{name} is no readable program or library ({error}); build it again") from None


def _add(names: Iterable[str], versions: dict[str, str]) -> None:
    for name in names:
        if found := _VERSION.fullmatch(name):
            kind, version = found.groups()
            versions[kind] = max(versions.get(kind, "0"), version, key=version_key)


def version_key(version: str) -> tuple[int, ...]:
    """Return what versions such as 2.34 are ordered by."""
    return tuple(map(int, version.split(".")))


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
