"""Find what was built of `runner/` and `kernels/`: by CMake in a checkout, else what the wheel brought."""

from importlib import metadata
from pathlib import Path

DISTRIBUTION = "native-llm-exporter"
INSTALL_EXPORT = f"pip install '{DISTRIBUTION}[export]'"
_PACKAGE = Path(__file__).parent.parent
CHECKOUT = _PACKAGE.parent  # where it is one
BUILD = "cmake-out"


def in_checkout() -> bool:
    """Tell whether this package lies in a checkout, with its sources, and not where pip installed it."""
    return (CHECKOUT / "CMakeLists.txt").is_file()


def native_folder() -> Path:
    """Return the folder of the programs and libraries; whether they are there is its readers' to see."""
    return CHECKOUT / BUILD if in_checkout() else _PACKAGE / "_native"


def native_program(name: str) -> Path:
    """Return where `et_run` or `aoti_run` is. Raises FileNotFoundError with the remedy."""
    path = native_folder() / name if in_checkout() else native_folder() / "bin" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; {remedy()}")
    return path


def check_version(package: str) -> None:
    """Raise ValueError where another release of `package` is installed than what the wheel was built with.

    In a checkout, whose environment its scripts make, and where `package` is not installed, nothing is known.
    """
    if in_checkout():
        return
    try:
        found = metadata.version(package).partition("+")[0]
        pins = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    start = f"{package}=="
    pinned = [pin.removeprefix(start).partition(";")[0].strip() for pin in pins if pin.startswith(start)]
    if (wanted := next(iter(pinned), found)) != found:
        raise ValueError(
            f"{package} {found} is installed, and this was built with {wanted}; "
            f"{INSTALL_EXPORT} brings that"
        )


def remedy() -> str:
    """Say how to get a file that is not there."""
    return "build it with scripts/build_native.sh" if in_checkout() else "install the package again"
