"""et_run for macOS, which zig builds and nobody has run: what their files say is checked.
`scripts/test_cross.sh macos` builds it and runs this; elsewhere it is left out."""

import importlib.util
from pathlib import Path

import pytest
from mach_o import LIBSYSTEM, Image, read_image, symbols_of_libsystem
from native import ROOT

from exporter.pack.runner_files import install_component
from exporter.pack.targets import build_folder

PRESET = "macos-arm64"
BUILT = ROOT / build_folder(PRESET)
pytestmark = pytest.mark.skipif(
    not (BUILT / "et_run").is_file() or importlib.util.find_spec("ziglang") is None,
    reason="et_run for macOS is not built: run scripts/test_cross.sh macos",
)
RUNNERS = {
    "bin/et_run", "lib/libexecutorch.dylib", "lib/libexecutorch_kernels_torchao.dylib",
    "lib/libexecutorch_threadpool.dylib",
}  # fmt: skip
OURS = ("bin/et_run", "lib/libet_stock.dylib")
PAGE = 16384
MACOS_OWN = (LIBSYSTEM, "/usr/lib/libc++.1.dylib")
REGISTER_KERNELS = "__ZN10executorch7runtime16register_kernelsENS0_4SpanIKNS0_6KernelEEE"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    install_component(PRESET, "runners", folder)
    assert files_in(folder) == RUNNERS
    install_component(PRESET, "stock", folder)
    return folder


@pytest.fixture(scope="module")
def images(folder) -> dict[str, Image]:
    return {name: read_image(folder / name) for name in files_in(folder)}


def files_in(folder: Path) -> set[str]:
    paths = (path for name in ("bin", "lib") for path in (folder / name).iterdir())
    return {path.relative_to(folder).as_posix() for path in paths}


def found(folder: Path, name: str, image: Image, library: str) -> str:
    """Return the file in the installed folder that macOS's loader finds for `library`."""
    for rpath in image.rpaths:
        place = rpath.replace("@loader_path", str((folder / name).parent))
        path = Path(library.replace("@rpath", place)).resolve()
        if path.is_file():
            return path.relative_to(folder.resolve()).as_posix()
    raise AssertionError(f"{name} does not find {library}")


def test_they_are_for_apple_silicon(images):
    for name, image in images.items():
        assert image.arm64 and image.system == (14, 0), name
        assert image.signed and all(offset % PAGE == 0 for offset in image.pages), name
    for name in OURS:
        assert set(images[name].rpaths) <= {"@loader_path", "@loader_path/../lib"}, name


def test_every_symbol_is_in_the_library_that_it_is_looked_for_in(folder, images):
    system = symbols_of_libsystem()
    for name, image in images.items():
        for symbol, library in image.imports:
            if library.startswith("@rpath/"):
                assert symbol in images[found(folder, name, image, library)].exports, (name, symbol)
            elif name in OURS:
                assert library == LIBSYSTEM and symbol in system, (name, symbol)
            else:
                assert library in MACOS_OWN, (name, library)
    for name in ("bin/et_run", "lib/libet_stock.dylib"):
        assert "@rpath/libexecutorch.dylib" in images[name].libraries


def test_torchaos_operators_come_with_et_run(folder, images):
    """Of every number of bits, for Arm CPUs; the wheel has none for MPS. They register themselves."""
    torchao = "libexecutorch_kernels_torchao.dylib"
    assert f"@rpath/{torchao}" in images["bin/et_run"].libraries
    assert (REGISTER_KERNELS, "@rpath/libexecutorch.dylib") in images[f"lib/{torchao}"].imports
    data = (folder / "lib" / torchao).read_bytes()
    for bits in range(1, 9):
        for operator in ("linear_8bit_act_{}bit_weight", "embedding_{}bit", "shared_embedding_{}bit"):
            assert b"torchao::_%s.out\0" % operator.format(bits).encode() in data
    assert b"fp_act" not in data


def test_licences_of_what_the_libraries_hold(folder):
    texts = {path.stem for path in (folder / "share" / "licenses").iterdir()}
    assert {"executorch", "flatbuffers", "cpuinfo", "pthreadpool", "fxdiv", "kleidiai", "torchao"} <= texts
    assert "musl" not in texts


def test_our_operators_are_registered_too(folder, images):
    assert (REGISTER_KERNELS, "@rpath/libexecutorch.dylib") in images["bin/et_run"].imports
    data = (folder / "bin/et_run").read_bytes()
    lines = (ROOT / "kernels/bindings/operators.txt").read_text().splitlines()
    names = [line.partition("(")[0] for line in lines if "(" in line and not line.startswith("#")]
    assert len(names) > 5
    for name in names:
        assert b"lowbit::%s.out\0" % name.encode() in data
