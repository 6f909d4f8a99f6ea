"""Find the C++ compiler for generated code, for us and for Inductor."""

import atexit
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from exporter.lower.targets import NATIVE, Target, find_targets, this_machine
from exporter.lower.zig import find_zig

INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"  # Inductor's name for where it compiles
_USUAL = ("g++", "clang++", "c++")  # where CXX names none


def find_compiler(target: Target) -> tuple[str, ...]:
    """Find the C++ compiler for `target`, as a command of one or more words.

    For this machine's architecture that is `CXX` (`clang++`, `ccache g++`, a path), or the first of g++,
    clang++ and c++; for another the cross compiler under Debian's name; zig, of the package ziglang, for the
    targets that are its. Raises ValueError with the remedy when there is none.
    """
    if target.zig is not None:
        return (*find_zig(f"--target {target.name}"), "c++", "-target", target.zig, f"-mcpu={target.march}")
    words = target.machine.replace("_", "-")
    if target.machine != this_machine():
        command = (f"{target.machine}-linux-gnu-g++",)
        remedy = (
            f"install it (Debian: apt-get install g++-{words}-linux-gnu), or use --target "
            f"{words}-glibc2.17 with the package ziglang"
        )
    else:
        command = _of_this_machine()
        remedy = (
            "install it (Debian: apt-get install g++), name another with CXX, or use --target "
            f"{words}-glibc2.17 with the package ziglang"
        )
    if shutil.which(command[0]) is None:
        raise ValueError(
            f"--target {target.name} needs the compiler {command[0]}, which is not here; {remedy}"
        )
    tried = subprocess.run([*command, "--version"], capture_output=True, text=True)
    if tried.returncode:  # `ccache` and `env` are there, what they are to run is not
        said = (tried.stderr.strip().splitlines() or [f"it ends with status {tried.returncode}"])[0]
        raise ValueError(f"the compiler {shlex.join(command)} does not run: {said}; {remedy}")
    return command


def find_compiler_here() -> tuple[str, ...]:
    """Find a C++ compiler for this machine: its own, else zig. Raises ValueError where there is neither."""
    (native,) = find_targets(NATIVE)
    try:
        return find_compiler(native)
    except ValueError as error:
        try:
            (by_zig,) = find_targets(f"{this_machine().replace('_', '-')}-glibc2.17")
            return find_compiler(by_zig)
        except ValueError:
            raise error from None


def is_clang(compiler: tuple[str, ...]) -> bool:
    """Ask `compiler` whether it is clang, whatever it is called. False where it does not answer."""
    ask = [*compiler, "-dM", "-E", "-x", "c++", os.devnull]
    done = subprocess.run(ask, capture_output=True, text=True)
    return "__clang__" in done.stdout


def check_openmp(compiler: tuple[str, ...]) -> None:
    """Raise ValueError when `compiler` has no OpenMP, which Inductor's loops need."""
    ask = [*compiler, "-fopenmp", "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(ask, input="#include <omp.h>\n", capture_output=True, text=True).returncode:
        raise ValueError(
            f"{shlex.join(compiler)} has no OpenMP, which PyTorch's own operators need; install it (Debian: "
            "libomp-dev of clang's version), or name another compiler with CXX"
        )


@contextmanager
def without_spaces(folder: Path) -> Iterator[Path]:
    """Name `folder` by a path without a space, through a link where it needs one.

    Raises ValueError when no folder for the link can be written.
    """
    if not _has_space(str(folder)):
        yield folder
        return
    for place in ("/tmp", "/var/tmp", "/dev/shm", os.getcwd()):
        if os.access(place, os.W_OK) and not _has_space(place):
            break
    else:
        raise ValueError(f"there is a space in {folder.parent}; set TMPDIR to a folder without one")
    with tempfile.TemporaryDirectory(prefix="exporter-", dir=place) as name:
        link = Path(name) / "work"
        link.symlink_to(folder, target_is_directory=True)
        yield link


@dataclass(frozen=True)
class InductorCompiler:
    """A compiler in the form that Inductor can call.

    Inductor takes the path of one program, guesses from its name what it is, and splits command lines at
    spaces.
    """

    script: Path  # runs the compiler, and is called g++ or clang++
    libraries: Path  # a link to PyTorch's libraries
    folder: Path  # for temporary files

    @classmethod
    def make(cls, compiler: tuple[str, ...], folder: Path) -> "InductorCompiler":
        """Write the script and the link into `folder`, whose path has no space."""
        from torch.utils.cpp_extension import TORCH_LIB_PATH

        script, libraries = folder / ("clang++" if is_clang(compiler) else "g++"), folder / "torch-lib"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(compiler)} "$@"\n')
        script.chmod(0o755)
        libraries.symlink_to(TORCH_LIB_PATH)
        return cls(script, libraries, folder)

    @classmethod
    def make_for_process(cls) -> "InductorCompiler":
        """Make one for this machine, in a folder that is there until the process ends.

        Raises ValueError for a compiler that is missing or has no OpenMP.
        """
        (native,) = find_targets(NATIVE)
        compiler = find_compiler(native)
        check_openmp(compiler)
        stack = ExitStack()
        atexit.register(stack.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exporter-")))
        return cls.make(compiler, stack.enter_context(without_spaces(folder)))

    def options(self) -> dict[str, tuple[str, ...] | bool]:
        """Return the options of Inductor that name the compiler.

        Where its headers would be precompiled is settled when it is imported; there may be a space there.
        """
        options = {"cpp.cxx": (str(self.script),)}
        if _has_space(tempfile.gettempdir()):
            for name in ("cpp_cache_precompile_headers", "aot_inductor.precompile_headers"):
                options[name] = False
        return options

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let Inductor find the libraries and write its temporary files without meeting a space."""
        from torch.utils import cpp_extension

        cache = os.environ.get(INDUCTOR_CACHE)
        before = cpp_extension.TORCH_LIB_PATH, tempfile.tempdir
        if _has_space(cache or tempfile.gettempdir()):
            os.environ[INDUCTOR_CACHE] = str(self.folder / "inductor")
        if _has_space(tempfile.gettempdir()):
            tempfile.tempdir = str(self.folder)
        cpp_extension.TORCH_LIB_PATH = str(self.libraries)
        try:
            yield
        finally:
            cpp_extension.TORCH_LIB_PATH, tempfile.tempdir = before
            if cache is not None:
                os.environ[INDUCTOR_CACHE] = cache
            else:
                os.environ.pop(INDUCTOR_CACHE, None)


def _of_this_machine() -> tuple[str, ...]:
    named = (os.environ.get("CXX") or "").strip()
    if not named:
        return (next((name for name in _USUAL if shutil.which(name)), _USUAL[0]),)
    if shutil.which(named):  # a path may have spaces
        return (named,)
    try:
        return tuple(shlex.split(named))
    except ValueError as error:
        raise ValueError(f"CXX is {named!r}, which is no command: {error}") from None


def _has_space(path: str) -> bool:
    return any(character.isspace() for character in path)
