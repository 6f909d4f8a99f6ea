"""`ExportedProgram` → `.pt2` package and bare `.so`, with AOTInductor of torch 2.13.

Both hold the same library: it is compiled once, and the `.so` is taken out of the package.
"""

import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram

from exporter.artifact import written_whole


@dataclass(frozen=True)
class Target:
    """An instruction set: gcc's `-march`, Inductor's vector width in bits, and what a CPU needs."""

    name: str
    march: str
    vector_bits: int | None
    cpu_features: tuple[str, ...]


# Feature names as Linux spells them in /proc/cpuinfo; levels as the x86-64 psABI defines them.
X86_64_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
X86_64_V4 = (*X86_64_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
TARGETS = ("native", "x86-64-v3", "x86-64-v4")
NATIVE_FEATURES = (
    *X86_64_V4, "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512vbmi",
    "avx512_vbmi2", "avx512ifma", "avx512_bitalg", "avx512_vpopcntdq", "amx_tile", "amx_int8",
    "amx_bf16", "gfni", "vaes", "vpclmulqdq", "sha_ni", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip


def find_target(name: str) -> Target:
    """The target of that name. Raises ValueError for an unknown one."""
    if name == "x86-64-v3":
        return Target(name, name, 256, X86_64_V3)
    if name == "x86-64-v4":
        return Target(name, name, 512, X86_64_V4)
    if name == "native":
        flags = _this_cpu()
        return Target(name, "native", None, tuple(f for f in NATIVE_FEATURES if f in flags))
    raise ValueError(f"--target {name} is unknown; use one of {', '.join(TARGETS)}")


def lower(
    program: ExportedProgram,
    metadata: Mapping[str, str],
    target: Target,
    max_autotune: bool,
    package: Path | None,
    library: Path | None,
) -> None:
    """Compile `program` and write it to `package` (.pt2), `library` (.so, .so.json) or both.

    `metadata` gets the keys `target` and `cpu_features` added.
    """
    metadata = {
        **metadata,
        "target": target.name,
        "cpu_features": json.dumps(list(target.cpu_features)),
    }
    options = {
        "aot_inductor.metadata": dict(metadata),
        "cpp.march": target.march,
        "cpp.simdlen": target.vector_bits,
        "cpp.dynamic_threads": True,  # the number of threads is the runner's to choose
        "max_autotune": max_autotune,
    }
    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        built = Path(folder) / "model.pt2"
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(built), inductor_configs=options
            )
        if library is not None:
            _write_library(built, library, metadata)
        if package is not None:
            with written_whole(package) as part:
                _move(built, part)


def _write_library(package: Path, library: Path, metadata: Mapping[str, str]) -> None:
    """The package's library as a file of its own, with its metadata beside it."""
    with zipfile.ZipFile(package) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".so"))
        with written_whole(library) as part, part.open("wb") as out, archive.open(name) as inside:
            while block := inside.read(1 << 24):
                out.write(block)
    with written_whole(library.with_name(library.name + ".json")) as part:
        part.write_text(json.dumps(dict(metadata), indent=1) + "\n")


def _move(source: Path, destination: Path) -> None:
    with source.open("rb") as inside, destination.open("wb") as out:
        while block := inside.read(1 << 24):
            out.write(block)


def _this_cpu() -> frozenset[str]:
    """The flags of /proc/cpuinfo; empty where there is none (macOS)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()
