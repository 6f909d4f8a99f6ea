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
    "-std=c++20", "-g0", "-w", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden",
    "-ffunction-sections", "-fdata-sections",
    "-DTORCH_INDUCTOR_CPP_WRAPPER", "-DSTANDALONE_TORCH_HEADER",
    "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DUSE_MMAP_EXTERNAL",
)  # fmt: skip
_NO_ASSERTIONS = "-DNDEBUG"
# Without them PyTorch's headers declare a function of glibc's <assert.h>, which musl has in another form.
_WITH_ASSERTIONS = "-UNDEBUG"
# A unique symbol would keep the library loaded for ever. clang makes none, and has no such option.
_NO_UNIQUE_SYMBOLS = "-fno-gnu-unique"
_LINK = (
    "-shared", "-Wl,-Bsymbolic", "-Wl,--gc-sections", "-Wl,--as-needed", "-Wl,-s",
    "-Wl,-z,noexecstack",
)  # fmt: skip
_LINK_MACOS = ("-dynamiclib", "-undefined", "dynamic_lookup", "-Wl,-dead_strip")

# The generated code prints its exceptions, which its caller reads by its last error anyway: what it
# takes for std::cerr goes nowhere. A device's name, "cpu" or "cpu:0", it reads by a regular expression, whose
# templates would be a fifth of all code: what it takes for one knows this name alone.
_BEFORE_IT = """
#include <iostream>
#include <regex>
#include <string>
namespace std {
static ostream nowhere(nullptr);

struct device_pattern { explicit device_pattern(const char*) {} };

struct device_match {
  struct Part {
    bool matched;
    string text;
    const string& str() const { return text; }
  };
  Part parts[4] = {};
  const Part& operator[](size_t i) const { return parts[i]; }
};

inline bool match_device(const string& name, device_match& found, const device_pattern&) {
  const string number = name.size() > 4 ? name.substr(4) : "";
  if (name != "cpu" && (name.compare(0, 4, "cpu:") != 0 || number.empty())) return false;
  for (char digit : number) {
    if (digit < '0' || digit > '9') return false;
  }
  found.parts[1] = {true, "cpu"};
  found.parts[3] = {!number.empty(), number};
  return true;
}
}
#define cerr nowhere
#define regex device_pattern
#define smatch device_match
#define regex_match match_device
"""

# Libraries that zig links do not call what the C library keeps for their end (gcc's crtbeginS.o does): it
# would be called when the program ends, from memory that is gone.
_UNLOAD = """
extern "C" void __cxa_finalize(void*);
extern "C" __attribute__((visibility("hidden"))) void* __dso_handle;
__attribute__((destructor)) static void unload() { __cxa_finalize(&__dso_handle); }
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
    (folder / "before_it.h").write_text(_BEFORE_IT)
    (folder / "thread_exit.cpp").write_text(_THREAD_EXIT)
    (folder / "unload.cpp").write_text(_UNLOAD)
    compilers = [find_compiler(target) for target in targets]

    def build(target: Target, compiler: tuple[str, ...]) -> Compiled:
        objects = []
        of_kind = () if is_clang(compiler) else (_NO_UNIQUE_SYMBOLS,)
        # -Og, the fastest to compile, means checks and traces to zig, which has the CPU in its command.
        of_kind = (*of_kind, "-Os") if target.zig else (*of_kind, "-Og", f"-march={target.march}")
        of_kind = (*of_kind, _WITH_ASSERTIONS if target.linked else _NO_ASSERTIONS)
        constants = folder / f"{target.name}-constants.S"
        constants.write_text(_constants(target, weights_bytes))
        parts = [source, constants]
        if not target.linked:
            parts.append(folder / "thread_exit.cpp")
        if target.zig and not target.linked and not target.macos:
            parts.append(folder / "unload.cpp")
        for part in parts:
            objects.append(folder / f"{target.name}-{part.stem}.o")
            flags = (*_COMPILE, *of_kind, *_includes(), f"-ffile-prefix-map={source.parent}/=")
            if part == source:
                flags = (*flags, "-include", folder / "before_it.h")
            _run(compiler, *flags, "-c", part, "-o", objects[-1])
        return Compiled(target, compiler, tuple(objects))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(build, targets, compilers))


def link(compiled: Compiled, library: Path, weights: Path | None = None) -> None:
    """Link `library`; with the bytes of the file `weights` in it, where that is given.

    They are brought in by the assembler, in a section of their own that the loader maps. Of a target whose
    code is linked `library` is one object. Raises ValueError when the linker fails, and OSError when the
    disk is full.
    """
    sources = [*compiled.objects]
    if weights is not None:
        sources.append(_weights_source(compiled.target, weights))
    small = ("-Os",) if compiled.target.zig else ()  # also how zig compiles its C++ library
    _run(compiled.compiler, *_link_flags(compiled.target), *small, *sources, "-o", library)


def _link_flags(target: Target) -> tuple[str, ...]:
    if target.linked:
        return ("-r",)
    return _LINK_MACOS if target.macos else _LINK


def _constants(target: Target, weights_bytes: int) -> str:
    """Write what the container takes for its weights where these lie elsewhere: their size."""
    section, prefix = ("__TEXT,__const", "__") if target.macos else ('.rodata,"a"', "_")
    start, end = f"{prefix}binary_constants_bin_start", f"{prefix}binary_constants_bin_end"
    text = (
        f"\t.section {section}\n\t.balign 64\n\t.globl {start}\n\t.globl {end}\n"
        f"{start}:\n\t.quad {weights_bytes}\n{end}:\n"
    )
    return text if target.macos else text + _NO_EXECUTABLE_STACK


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
    # Headers name themselves in messages: as of PyTorch, wherever it lies.
    folders = [f"-I{root}", f"-I{root / 'torch' / 'csrc' / 'api' / 'include'}"]
    return [*folders, f"-ffile-prefix-map={root}/="]


def _run(compiler: Sequence[str], *arguments: str | Path) -> None:
    """Run the compiler with `arguments`, which end in its output."""
    words = [*compiler, *map(str, arguments)]
    # In English, so that a full disk can be told from other failures.
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        check_disk_full(done.stderr, Path(words[-1]))
        first = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
        raise ValueError(f"{shlex.join(compiler)} cannot compile the model: {first.strip()}")
