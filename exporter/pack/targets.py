"""Describe the kinds of machines that are packed for."""

from dataclasses import dataclass

from exporter.lower.targets import X86_64_V3
from exporter.util.nearest import hint

ET_RUN, AOTI_RUN = "et_run", "aoti_run"


@dataclass(frozen=True)
class BundleTarget:
    """A kind of machine.

    `page_size` bytes is the largest that its kernels have. `preset`, of CMakePresets.json, builds its
    `programs`; `single_file` builds what programs of one file are linked of; both None where there are none.
    `cpu_features` are those of every CPU of it. `glibc` is the oldest that its machines have, None where they
    differ: then what is needed is only told. `boards` are what people call such machines.
    """

    name: str
    machine: str  # as `uname -m` says it
    page_size: int
    preset: str | None
    programs: tuple[str, ...]
    single_file: str | None = None
    cpu_features: tuple[str, ...] = ()
    glibc: str | None = None
    boards: tuple[str, ...] = ()


# Linux on 64-bit Arm has pages of 4 KiB (Raspberry Pi 4), 16 KiB (Raspberry Pi 5) or 64 KiB (some servers).
_X86_PAGE, _ARM_PAGE = 4096, 65536
_X86_STATIC, _ARM_STATIC = "linux-x86-64-static", "linux-aarch64-static"
BUNDLE_TARGETS = (
    BundleTarget("linux-x86-64", "x86_64", _X86_PAGE, "release", (ET_RUN, AOTI_RUN), _X86_STATIC),
    BundleTarget("linux-x86-64-v3", "x86_64", _X86_PAGE, "release", (ET_RUN, AOTI_RUN), _X86_STATIC,
                 cpu_features=X86_64_V3),
    BundleTarget("linux-aarch64", "aarch64", _ARM_PAGE, "aarch64", (ET_RUN, AOTI_RUN), _ARM_STATIC,
                 boards=("raspberry-pi-4", "raspberry-pi-5", "graviton")),
    BundleTarget("linux-x86-64-glibc2.17", "x86_64", _X86_PAGE, "linux-x86-64-glibc2.17", (AOTI_RUN,),
                 glibc="2.17"),
    BundleTarget("linux-aarch64-glibc2.17", "aarch64", _ARM_PAGE, "linux-aarch64-glibc2.17", (AOTI_RUN,),
                 glibc="2.17"),
    BundleTarget("linux-x86-64-musl", "x86_64", _X86_PAGE, None, (), _X86_STATIC),
    BundleTarget("linux-aarch64-musl", "aarch64", _ARM_PAGE, None, (), _ARM_STATIC, boards=("android",)),
)  # fmt: skip


def build_folder(preset: str) -> str:
    """Name the folder that a preset builds into, as CMakePresets.json has it."""
    return "cmake-out" if preset == "release" else f"cmake-out/{preset}"


def find_target(name: str) -> BundleTarget:
    """Find a target by its name or a board's. Raises ValueError that lists them."""
    for target in BUNDLE_TARGETS:
        if name == target.name or name in target.boards:
            return target
    names = [name for target in BUNDLE_TARGETS for name in (target.name, *target.boards)]
    said = f"{name or '(empty)'} is unknown{hint(name, names)}"
    raise ValueError(f"--target {said}; use one of {', '.join(names)}")


def target_of(machine: str) -> BundleTarget:
    """Return the target of a machine, as `uname -m` says it. Raises ValueError where there is none."""
    for target in BUNDLE_TARGETS:
        if target.machine == machine:
            return target
    names = ", ".join(target.name for target in BUNDLE_TARGETS)
    raise ValueError(f"there is no target for this machine, {machine}; name one with --target: {names}")
