"""What the command line asked of the AOTInductor outputs, and whether it can be; without torch."""

from dataclasses import dataclass
from pathlib import Path

from exporter.aoti_compile import find_compiler
from exporter.targets import Target, this_machine


@dataclass(frozen=True)
class AotiOptions:
    targets: tuple[Target, ...]
    lowbit: bool  # the program holds our operators only
    runtime: str  # one of RUNTIMES
    max_autotune: bool
    package: Path | None
    library: Path | None


def check_options(options: AotiOptions) -> None:
    """Raise ValueError for what cannot be, before any work starts."""
    names = ", ".join(target.name for target in options.targets)
    if options.library is not None and len(options.targets) > 1:
        raise ValueError(f"a .so holds code for one target, not for {names}; write a .pt2 instead")
    if options.lowbit:
        for target in options.targets:
            find_compiler(target)
        return
    foreign = [t.name for t in options.targets if t.machine != this_machine()]
    if len(options.targets) > 1 or foreign:
        raise ValueError(
            f"--target {names} needs --delegate lowbit: PyTorch's own operators are compiled for "
            "one target of this machine's architecture"
        )
