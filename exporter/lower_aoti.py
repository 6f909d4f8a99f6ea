"""`ExportedProgram` → `.pt2` package and bare `.so`, with AOTInductor of torch 2.13.

Both hold the same library: it is compiled once, and the `.so` is taken out of the package.
"""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram

from exporter import ops
from exporter.artifact import disk_full_named, sidecar_of, written_whole
from exporter.graph_check import check_lowbit_only
from exporter.targets import Target


def lower(
    program: ExportedProgram,
    metadata: Mapping[str, str],
    target: Target,
    lowbit: bool,
    max_autotune: bool,
    package: Path | None,
    library: Path | None,
) -> None:
    """Compile `program` and write it to `package` (.pt2), `library` (.so, .so.json) or both.

    `lowbit`: the program holds our operators only, and calls their C functions directly.
    `metadata` gets the keys `target` and `cpu_features` added.
    """
    metadata = {
        **metadata,
        "target": target.name,
        "cpu_features": json.dumps(list(target.cpu_features)),
    }
    options = {
        "aot_inductor.metadata": dict(metadata),
        "cpp.march": target.march,
        "cpp.simdlen": target.vector_bits,
        "cpp.dynamic_threads": True,  # the number of threads is the runner's to choose
        "max_autotune": max_autotune,
    }
    if lowbit:
        check_lowbit_only(program.graph_module)
        options |= {
            "aot_inductor.custom_ops_to_c_shims": ops.c_shims(),
            # The code only calls our operators: nothing in it is worth optimizing, or compiling
            # all of PyTorch's headers ahead for.
            "aot_inductor.compile_wrapper_opt_level": "O0",
            "aot_inductor.precompile_headers": False,
        }
    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        built = Path(folder) / "model.pt2"
        with _compiling_in(Path(folder)), torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(built), inductor_configs=options
            )
        if library is not None:
            _write_library(built, library, metadata)
        if package is not None:
            with written_whole(package) as part:
                shutil.copyfile(built, part)


@contextmanager
def _compiling_in(folder: Path) -> Iterator[None]:
    """Inductor's generated sources and objects go to `folder` instead of staying behind."""
    key = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(key)
    os.environ[key] = str(folder / "inductor")
    try:
        with disk_full_named(f"{folder.parent} (set TMPDIR to a folder with room)"):
            yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _write_library(package: Path, library: Path, metadata: Mapping[str, str]) -> None:
    """The package's library as a file of its own, with its metadata beside it."""
    with zipfile.ZipFile(package) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".so"))
        with written_whole(library) as part, part.open("wb") as out, archive.open(name) as inside:
            shutil.copyfileobj(inside, out)
    with written_whole(sidecar_of(library)) as part:
        part.write_text(json.dumps(dict(metadata), indent=1) + "\n")
