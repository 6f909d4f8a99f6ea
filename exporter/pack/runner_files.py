"""Install a build of the runners for a target, with what an artifact needs of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from exporter.pack.targets import BundleTarget
from exporter.util.files import check_disk_full

ROOT = Path(__file__).parent.parent.parent


def check_built(target: BundleTarget, program: str) -> None:
    """Raise FileNotFoundError that says how to build `program` for `target` where it is not."""
    if not (ROOT / target.build / program).is_file():
        raise FileNotFoundError(
            f"{target.build}/{program}: {program} is not built for {target.name}; build it: "
            f"cmake --preset {target.preset} && cmake --build --preset {target.preset}"
        )


def _environment() -> dict[str, str]:
    """This process's, without what would make CMake install elsewhere or otherwise."""
    return {k: v for k, v in os.environ.items() if k not in ("DESTDIR", "CMAKE_INSTALL_MODE")}


def install_runner(target: BundleTarget, program: str, stock: bool, folder: Path) -> None:
    """Install `program`, its libraries and licences into `folder`: bin/, lib/ and licenses/.

    Args:
        stock: with ExecuTorch's own kernels and XNNPACK.

    Raises OSError with CMake's words where it cannot.
    """
    cmake = shutil.which("cmake", path=Path(sys.executable).parent) or shutil.which("cmake")
    if cmake is None:
        raise FileNotFoundError("cmake, which installs the runner, is not here; pip install cmake")
    prefix = folder / "installed"
    for component in ("runners", "stock") if stock else ("runners",):
        done = subprocess.run(
            [cmake, "--install", ROOT / target.build, "--prefix", prefix, "--strip",
             "--component", component],
            capture_output=True, text=True, env=_environment(),
        )  # fmt: skip
        if done.returncode != 0:
            check_disk_full(done.stderr, folder)
            words = " ".join((done.stderr or done.stdout).split())
            raise OSError(f"cmake cannot install {program} for {target.name}: {words}")
    (folder / "bin").mkdir()
    (prefix / "bin" / program).rename(folder / "bin" / program)
    if program == "et_run":
        (prefix / "lib").rename(folder / "lib")
    (prefix / "share" / "licenses").rename(folder / "licenses")
    if program != "et_run":
        (folder / "licenses" / "executorch.txt").unlink(missing_ok=True)
    shutil.rmtree(prefix)
