"""Check what the command line asks of the AOTInductor outputs; without torch."""

import sys
from dataclasses import dataclass
from pathlib import Path

from exporter.lower.cxx_compiler import check_openmp, find_compiler
from exporter.lower.targets import Target, this_machine


@dataclass(frozen=True)
class AotiOptions:
    """What the command line asked of the AOTInductor outputs."""

    targets: tuple[Target, ...]
    lowbit: bool  # the program holds our operators only
    runtime: str  # one of RUNTIMES
    max_autotune: bool
    package: Path | None
    library: Path | None


def check_options(options: AotiOptions) -> None:
    """Raise ValueError for what cannot be, a missing compiler among it, before any work starts."""
    if sys.platform != "linux":
        raise ValueError("AOTInductor artifacts are compiled on Linux alone; export there, or a .pte")
    names = ", ".join(target.name for target in options.targets)
    if options.library is not None and len(options.targets) > 1:
        raise ValueError(f"a .so holds code for one target, not for {names}; write a .pt2 instead")
    foreign = [t.name for t in options.targets if t.machine != this_machine()]
    by_zig = [t.name for t in options.targets if t.zig]
    if options.library is not None and by_zig:
        raise ValueError(f"a .so is not compiled for {', '.join(by_zig)}; write a .pt2 instead")
    if not options.lowbit and (len(options.targets) > 1 or foreign or by_zig):
        raise ValueError(
            f"--target {names} needs --delegate lowbit: PyTorch's own operators are compiled for "
            "one target of this machine's architecture"
        )
    for target in options.targets:
        compiler = find_compiler(target)
        if not options.lowbit:
            check_openmp(compiler)
