"""Check a wheel's programs and libraries as files: their machine, what they need, what Python loads.

Usage: python scripts/check_wheel.py WHEEL MACHINE        (as `uname -m` says it)

Nothing is run, so that a wheel for another machine can be checked. Ends with status 1 and a line for each
that is wrong.
"""

import io
import re
import sys
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

sys.path.insert(0, str(Path(__file__).parent.parent))

from exporter.pack.elf_needs import SYSTEM_LIBRARY, read_needs, version_key  # noqa: E402
from exporter.pack.targets import target_of  # noqa: E402

NATIVE = "exporter/_native/"
PROGRAMS = ("bin/et_run", "bin/aoti_run")
MODULES = ("_et", "_aoti")
PACKAGES = re.compile(r"lib(torch|torch_cpu|c10|executorch\w*)\.so")  # those of torch and executorch
LICENCES = {
    "executorch", "flatbuffers", "libsodium", "native-llm", "nlohmann-json", "pcre2", "pybind11", "pytorch",
}  # fmt: skip
TAG = re.compile(r"-cp(\d+)-cp\d+-manylinux_2_(\d+)_(\w+)\.whl")


def wrongs(path: Path, machine: str) -> list[str]:
    """Return what is wrong with the wheel for `machine`, a line each."""
    found = TAG.search(path.name)
    if not found or found[3] != machine:
        return [f"{path.name} has no tag manylinux_2_..._{machine}"]
    python, glibc = found[1], f"2.{found[2]}"
    page = target_of(machine).page_size
    said = []
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    native = {name: data for name, data in files.items() if data.startswith(b"\x7fELF")}
    own = {Path(name).name for name in native}
    for name, data in native.items():
        needs = read_needs(data, name)
        strange = [n for n in needs.libraries if n not in own and not _is_elsewhere(n)]
        if needs.machine != machine:
            said.append(f"{name} is for {needs.machine}")
        if needs.alignment < page:
            said.append(f"{name} cannot be mapped by pages of {page} bytes")
        if strange:
            said.append(f"{name} needs {', '.join(strange)}")
        if version_key(needs.versions.get("GLIBC", "0")) > version_key(glibc):
            said.append(f"{name} needs glibc {needs.versions['GLIBC']}, and the tag says {glibc}")
    for module in MODULES:
        name = f"{NATIVE}python/{module}.cpython-{python}-{machine}-linux-gnu.so"
        if f"PyInit_{module}" not in _exported(native.get(name, b"")):
            said.append(f"{name} is no module of Python")
    said += [f"{name} is not there" for name in PROGRAMS if NATIVE + name not in native]
    texts = [n for n in files if n.startswith(f"{NATIVE}share/licenses/") and files[n].strip()]
    missing = LICENCES - {Path(name).stem for name in texts}
    said += [f"{NATIVE}share/licenses/{name}.txt is not there" for name in sorted(missing)]
    return said


def _is_elsewhere(library: str) -> bool:
    return bool(SYSTEM_LIBRARY.fullmatch(library) or PACKAGES.fullmatch(library))


def _exported(data: bytes) -> set[str]:
    """Return the names of the functions that a library exports."""
    if not data:
        return set()
    symbols = ELFFile(io.BytesIO(data)).get_section_by_name(".dynsym")
    return {s.name for s in symbols.iter_symbols() if s["st_shndx"] != "SHN_UNDEF"}


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    path, machine = Path(sys.argv[1]), sys.argv[2]
    lines = wrongs(path, machine)
    for line in lines:
        print(f"{path.name}: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
