"""Compile the C++ that AOTInductor writes to shared libraries, one for each target.

The code only calls our operators, so there is nothing in it to optimize: what it costs is the
parsing of PyTorch's headers. No library of PyTorch is linked.
"""

import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from exporter.lower.cxx_compiler import find_compiler, is_clang
from exporter.lower.targets import Target
from exporter.util.files import check_disk_full

WEIGHTS_SYMBOLS = ("aoti_weights_start", "aoti_weights_end")  # as runner/backends/aoti_model.cpp looks for

_COMPILE = (
    "-std=c++20", "-Og", "-g0", "-w", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden",
    "-ffunction-sections", "-fdata-sections",
    "-DNDEBUG", "-DTORCH_INDUCTOR_CPP_WRAPPER", "-DSTANDALONE_TORCH_HEADER",
    "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DUSE_MMAP_EXTERNAL",
)  # fmt: skip
# A unique symbol would keep the library loaded for ever. clang makes none, and has no such option.
_NO_UNIQUE_SYMBOLS = "-fno-gnu-unique"
_LINK = (
    "-shared", "-Wl,-Bsymbolic", "-Wl,--gc-sections", "-Wl,--as-needed", "-Wl,-s",
    "-Wl,-z,noexecstack",
)  # fmt: skip

# The generated code prints its exceptions, which its caller reads by its last error anyway: what it
# takes for std::cerr goes nowhere.
_QUIET = """
#include <iostream>
namespace std {
static ostream nowhere(nullptr);
}
#define cerr nowhere
"""

# The generated code keeps its last error in a thread's own string. A destructor that waits for the
# thread's end would keep the library loaded until then; the text of an error is left behind instead.
_THREAD_EXIT = """
extern "C" int __cxa_thread_atexit(void (*)(void*), void*, void*) { return 0; }
"""


@dataclass(frozen=True)
class Compiled:
    """The object files of a target, from which libraries are linked."""

    target: Target
    compiler: tuple[str, ...]
    objects: tuple[Path, ...]


def compile_targets(
    source: Path, weights_bytes: int, targets: Sequence[Target], folder: Path
) -> list[Compiled]:
    """Compile the generated `source` for each target, in `folder`.

    Raises ValueError when a compiler is missing or fails, and OSError when the disk is full.
    """
    (folder / "quiet.h").write_text(_QUIET)
    (folder / "thread_exit.cpp").write_text(_THREAD_EXIT)
    (folder / "constants.S").write_text(
        '\t.section .rodata,"a"\n\t.balign 64\n'
        "\t.globl _binary_constants_bin_start, _binary_constants_bin_end\n"
        f"_binary_constants_bin_start:\n\t.quad {weights_bytes}\n_binary_constants_bin_end:\n"
        + _NO_EXECUTABLE_STACK
    )
    compilers = [find_compiler(target) for target in targets]

    def build(target: Target, compiler: tuple[str, ...]) -> Compiled:
        objects = []
        of_kind = () if is_clang(compiler) else (_NO_UNIQUE_SYMBOLS,)
        for part in (source, folder / "thread_exit.cpp", folder / "constants.S"):
            objects.append(folder / f"{target.name}-{part.stem}.o")
            flags = (*_COMPILE, *of_kind, f"-march={target.march}", *_includes())
            if part == source:
                flags = (*flags, "-include", folder / "quiet.h")
            _run(compiler, *flags, "-c", part, "-o", objects[-1])
        return Compiled(target, compiler, tuple(objects))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(build, targets, compilers))


def link(compiled: Compiled, library: Path, weights: Path | None = None) -> None:
    """Link `library`; with the bytes of the file `weights` in it, where that is given.

    They are brought in by the assembler, in a section of their own that the loader maps. Raises
    ValueError when the linker fails, and OSError when the disk is full.
    """
    sources = [*compiled.objects]
    if weights is not None:
        sources.append(_weights_source(compiled.target, weights))
    _run(compiled.compiler, *_LINK, *sources, "-o", library)


_NO_EXECUTABLE_STACK = '\t.section .note.GNU-stack,"",%progbits\n'


def _weights_source(target: Target, weights: Path) -> Path:
    start, end = WEIGHTS_SYMBOLS
    # Large data lies behind everything else, where it moves no code away from its data.
    section = ".lrodata" if target.machine == "x86_64" else ".rodata.weights"
    source = weights.with_name(f"weights-{target.name}.S")
    source.write_text(
        f'\t.section {section},"a",%progbits\n\t.balign 16384\n\t.globl {start}, {end}\n{start}:\n'
        f'\t.incbin "{weights}"\n{end}:\n\t.byte 0\n' + _NO_EXECUTABLE_STACK
    )
    return source


def _includes() -> list[str]:
    import torch  # takes seconds, and whether there is a compiler is asked before

    root = Path(torch.__file__).parent / "include"
    return [f"-I{root}", f"-I{root / 'torch' / 'csrc' / 'api' / 'include'}"]


def _run(compiler: Sequence[str], *arguments: str | Path) -> None:
    """Run the compiler with `arguments`, which end in its output."""
    words = [*compiler, *map(str, arguments)]
    # In English, so that a full disk can be told from other failures.
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        check_disk_full(done.stderr, Path(words[-1]))
        first = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
        raise ValueError(f"{shlex.join(compiler)} cannot compile the model: {first.strip()}")
