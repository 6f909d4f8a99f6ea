"""Instruction sets that AOTInductor artifacts are compiled for."""

import platform
from dataclasses import dataclass
from pathlib import Path


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
    "amx_bf16", "gfni", "vaes", "vpclmulqdq", "sha_ni", "asimd", "asimdhp", "asimddp", "atomics",
    "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip


def find_target(name: str) -> Target:
    """The target of that name. Raises ValueError for one that this machine cannot compile for."""
    if name == "native":
        flags = _this_cpu()
        return Target(name, "native", None, tuple(f for f in NATIVE_FEATURES if f in flags))
    if name not in TARGETS:
        raise ValueError(f"--target {name} is unknown; use one of {', '.join(TARGETS)}")
    if platform.machine() not in ("x86_64", "AMD64"):
        raise ValueError(f"--target {name} needs an x86-64 machine to export on; use native here")
    bits, features = (256, X86_64_V3) if name == "x86-64-v3" else (512, X86_64_V4)
    return Target(name, name, bits, features)


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
