"""Install a build of the runners for a target, with what an artifact needs of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from exporter.pack.targets import ET_RUN, build_folder
from exporter.util.files import check_disk_full
from exporter.util.native_files import CHECKOUT, in_checkout, native_folder

ROOT = CHECKOUT
EXECUTORCH_LICENCES = ("executorch", "flatbuffers")  # of libexecutorch.so, which no other runner needs


def check_built(target: str, preset: str, file: str) -> None:
    """Raise FileNotFoundError that says how to build `file` of `preset` for `target` where it is not."""
    if not in_checkout():
        if preset != "release":
            raise FileNotFoundError(f"{target} is packed from a checkout of the project, which builds {file}")
        return
    folder = ROOT / build_folder(preset)
    if not any((folder / place / file).is_file() for place in ("", "runner/app")):
        raise FileNotFoundError(
            f"{build_folder(preset)}/{file} is not built for {target}; build it: "
            f"cmake --preset {preset} && cmake --build --preset {preset}"
        )


def _environment() -> dict[str, str]:
    """This process's, without what would make CMake install elsewhere or otherwise."""
    return {k: v for k, v in os.environ.items() if k not in ("DESTDIR", "CMAKE_INSTALL_MODE")}


def install_runner(preset: str, program: str, stock: bool, folder: Path) -> None:
    """Install `program` of `preset`, its libraries and licences into `folder`: bin/, lib/ and licenses/.

    Args:
        stock: with ExecuTorch's own kernels and XNNPACK.

    Raises OSError with CMake's words where it cannot.
    """
    prefix = folder / "installed"
    if in_checkout():
        for component in ("runners", "stock") if stock else ("runners",):
            install_component(preset, component, prefix)
    elif stock:
        raise FileNotFoundError("models on ExecuTorch's own kernels are packed from a checkout")
    else:
        for part in ("bin", "lib", "share"):
            shutil.copytree(native_folder() / part, prefix / part)
        (prefix / "lib" / "libet_stock.so").unlink()
        (prefix / "share" / "licenses" / "pybind11.txt").unlink()  # of the modules
    (folder / "bin").mkdir()
    (prefix / "bin" / program).rename(folder / "bin" / program)
    if program == ET_RUN:
        (prefix / "lib").rename(folder / "lib")
    (prefix / "share" / "licenses").rename(folder / "licenses")
    if program != ET_RUN:
        for name in EXECUTORCH_LICENCES:
            (folder / "licenses" / f"{name}.txt").unlink(missing_ok=True)
    shutil.rmtree(prefix)


def install_component(preset: str, component: str, prefix: Path) -> None:
    """Install what `preset` has built of `component` under `prefix`. Raises OSError with CMake's words."""
    cmake = shutil.which("cmake", path=Path(sys.executable).parent) or shutil.which("cmake")
    if cmake is None:
        raise FileNotFoundError("cmake, which installs the runner, is not here; pip install cmake")
    done = subprocess.run(
        [cmake, "--install", ROOT / build_folder(preset), "--prefix", prefix, "--strip",
         "--component", component],
        capture_output=True, text=True, env=_environment(),
    )  # fmt: skip
    if done.returncode != 0:
        check_disk_full(done.stderr, prefix)
        words = " ".join((done.stderr or done.stdout).split())
        raise OSError(f"cmake cannot install {component} of {build_folder(preset)}: {words}")
