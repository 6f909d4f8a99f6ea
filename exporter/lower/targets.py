"""Describe the instruction sets that AOTInductor artifacts are compiled for, and what they run on."""

import platform
from dataclasses import dataclass
from pathlib import Path

from exporter.util.nearest import hint

NATIVE = "native"

# What an AOTInductor artifact runs on: the runner's own host, or libtorch.
LEAN, TORCH = "lean", "torch"
RUNTIMES = ("auto", LEAN, TORCH)


# Behind a machine's name: code that is linked into a program, and code for macOS.
STATIC, MACOS = "-static", "-macos"


@dataclass(frozen=True)
class Target:
    """What code is compiled for: gcc's `-march`, Inductor's vector width in bits, and what a CPU needs.

    `machine` is as `uname -m` says it, followed by `-static` for code that is linked into a program and by
    `-macos`; Linux and glibc need no word. `zig` is zig's name for it where zig compiles it.
    """

    name: str
    machine: str
    march: str
    vector_bits: int | None
    cpu_features: tuple[str, ...]
    zig: str | None = None

    @property
    def linked(self) -> bool:
        """Whether the code is an object that `pack --single-file` links, and no library."""
        return self.machine.endswith(STATIC)

    @property
    def macos(self) -> bool:
        return self.machine.endswith(MACOS)


# Feature names as Linux spells them in /proc/cpuinfo; levels as the x86-64 psABI defines them.
X86_64_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
X86_64_V4 = (*X86_64_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
NATIVE_FEATURES = (
    *X86_64_V4, "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512vbmi",
    "avx512_vbmi2", "avx512ifma", "avx512_bitalg", "avx512_vpopcntdq", "amx_tile", "amx_int8",
    "amx_bf16", "gfni", "vaes", "vpclmulqdq", "sha_ni", "asimd", "asimdhp", "asimddp", "atomics",
    "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip

_KNOWN = (
    Target("x86-64", "x86_64", "x86-64", 128, ()),
    Target("x86-64-v3", "x86_64", "x86-64-v3", 256, X86_64_V3),
    Target("x86-64-v4", "x86_64", "x86-64-v4", 512, X86_64_V4),
    Target("aarch64", "aarch64", "armv8-a", 128, ()),
    Target("x86-64-glibc2.17", "x86_64", "x86_64", 128, (), "x86_64-linux-gnu.2.17"),
    Target("aarch64-glibc2.17", "aarch64", "generic", 128, (), "aarch64-linux-gnu.2.17"),
    Target("x86-64-static", "x86_64-static", "x86_64", 128, (), "x86_64-linux-musl"),
    Target("aarch64-static", "aarch64-static", "generic", 128, (), "aarch64-linux-musl"),
    Target("arm64-macos", "aarch64-macos", "apple_m1", 128, (), "aarch64-macos.13.0"),
)
TARGETS = (NATIVE, *(target.name for target in _KNOWN))


def this_machine() -> str:
    """Name this machine's architecture, `x86_64` or `aarch64`, whatever the system calls it."""
    name = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(name, name)


def baseline() -> str:
    """Name the target that every CPU of this machine's architecture runs."""
    machine = this_machine()
    return next((t.name for t in _KNOWN if t.machine == machine and not t.cpu_features), NATIVE)


def find_targets(names: str) -> tuple[Target, ...]:
    """Find the targets of a list such as `x86-64-v3,aarch64`.

    Raises ValueError for an unknown name, one given twice, and an empty one.
    """
    targets = tuple(_find(name.strip()) for name in names.split(","))
    for target in targets:
        if targets.count(target) > 1:
            raise ValueError(f"--target {names} names {target.name} twice; give it once")
    return targets


def _find(name: str) -> Target:
    if name == NATIVE:
        flags = this_cpu()
        features = tuple(f for f in NATIVE_FEATURES if f in flags)
        return Target(name, this_machine(), NATIVE, None, features)
    for target in _KNOWN:
        if target.name == name:
            return target
    raise ValueError(
        f"--target {name or '(empty)'} is unknown{hint(name, TARGETS)}; use one of {', '.join(TARGETS)}"
    )


def this_cpu() -> frozenset[str]:
    """Read the flags of /proc/cpuinfo; none where there is no such file (macOS)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()
