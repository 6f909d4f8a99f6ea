"""Describe the kinds of machines that bundles are made for."""

from dataclasses import dataclass

from exporter.util.nearest import hint


@dataclass(frozen=True)
class BundleTarget:
    """A kind of machine: `page_size` bytes is the largest that its kernels have, `preset` builds its runners
    into `build`, both by names of CMakePresets.json; `boards` are what people call such machines."""

    name: str
    machine: str  # as `uname -m` says it
    page_size: int
    preset: str
    build: str
    boards: tuple[str, ...] = ()


# Linux on 64-bit Arm has pages of 4 KiB (Raspberry Pi 4), 16 KiB (Raspberry Pi 5) or 64 KiB (some servers).
BUNDLE_TARGETS = (
    BundleTarget("linux-x86-64", "x86_64", 4096, "release", "cmake-out"),
    BundleTarget("linux-aarch64", "aarch64", 65536, "aarch64", "cmake-out/aarch64",
                 ("raspberry-pi-4", "raspberry-pi-5", "graviton")),
)  # fmt: skip


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
