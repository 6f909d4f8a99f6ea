"""Lower an `ExportedProgram` to a `.pt2` package and a bare `.so`, with AOTInductor of torch 2.13.

A program of our operators is compiled for the runner's own host: AOTInductor writes C++ that calls
the C interface alone, we compile it for each target, and the weights lie beside the code. Any
other program is compiled and linked by AOTInductor, and needs libtorch. docs/aoti.md says more.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from exporter.artifact.metadata import TOKENIZER_KEY, CodeMetadata, Metadata, sidecar_of
from exporter.lowbit import ops
from exporter.lower.aoti_compile import Compiled, compile_targets, link
from exporter.lower.aoti_functions import (
    called_by_macos_library,
    called_by_object,
    called_functions,
    not_covered,
)
from exporter.lower.aoti_options import AotiOptions
from exporter.lower.cxx_compiler import (
    INDUCTOR_CACHE,
    InductorCompiler,
    find_compiler_here,
    without_spaces,
)
from exporter.lower.graph_check import check_lowbit_only, other_operators
from exporter.lower.pt2_package import MODEL, Pt2Writer, code_name, tensor_bytes
from exporter.lower.targets import LEAN, TORCH, Target
from exporter.util.files import check_disk_full, disk_full_named, written_whole
from exporter.util.progress import note

_WEIGHT_ALIGNMENT = 64  # of the container's own loader, AOTI_CONST_ALIGNMENT


def lower(program: ExportedProgram, metadata: Metadata, options: AotiOptions) -> None:
    """Compile `program` and write the package (.pt2), the library (.so, .so.json) or both.

    Adds what the code is to `metadata`. Raises ValueError when the lean
    runtime is asked for and cannot run the program.
    """
    with tempfile.TemporaryDirectory(prefix="exporter-") as name, without_spaces(Path(name)) as folder:
        with disk_full_named(f"{tempfile.gettempdir()} (set TMPDIR to a folder with room)"):
            build = _build_lean if options.lowbit else _build_stock
            built = build(program, options, folder)
            metadata = replace(metadata, code=_code_metadata(built, options))
            if options.library is not None:
                _write_library(built, options.library, metadata, folder)
        if options.package is not None:
            _write_package(built, options.package, metadata)


@dataclass(frozen=True)
class _Built:
    """The code for each target, in their order, and the weights where they are not in the code."""

    targets: tuple[Target, ...]
    libraries: tuple[Path, ...]
    compiled: tuple[Compiled, ...]  # of the lean runtime
    beside: tuple[Path, ...]  # further files that PyTorch's loader reads
    torch_metadata: Mapping[str, str]  # what PyTorch's loader wants to know
    weights: Mapping[str, Tensor]


def _padded(size: int) -> int:
    return size + -size % _WEIGHT_ALIGNMENT


def _stored_bytes(weights: Mapping[str, Tensor]) -> int:
    return sum(_padded(tensor.nbytes) for tensor in weights.values())


def _build_lean(program: ExportedProgram, options: AotiOptions, folder: Path) -> _Built:
    check_lowbit_only(program.graph_module)
    with _weights_not_copied():
        files = _inductor(
            program,
            folder,
            {
                "aot_inductor.custom_ops_to_c_shims": ops.c_shims(),
                "aot_inductor.link_libtorch": False,
                "aot_inductor.package_cpp_only": True,
                "aot_inductor.package_constants_in_so": False,
                # Only so that the weights are handed over as tensors; this stage writes no file.
                "aot_inductor.package_constants_on_disk_format": "pickle_weights",
                "aot_inductor.precompile_headers": False,
                "always_keep_tensor_constants": True,  # short ones are weights, too: no numbers in the code
                "cpp.vec_isa_ok": False,  # no loops are generated; finding out takes 8 s
            },
        )
    # Named after its contents and a folder that is new each time; the name gets into the code.
    source = folder / "model.cpp"
    shutil.copyfile(next(file for file in files if str(file).endswith(".wrapper.cpp")), source)
    weights = {}
    for name, (tensor, _) in next(file for file in files if isinstance(file, dict)).items():
        if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
            raise ValueError(
                f"the weight {name} is a part of a larger tensor, which cannot be stored in place; "
                "this is a defect of the exporter: report it"
            )
        weights[name] = tensor
    note(f"  compiling for {', '.join(target.name for target in options.targets)}")
    compiled = compile_targets(source, _stored_bytes(weights), options.targets, folder)
    libraries = []
    for one in compiled:
        libraries.append(folder / f"{one.target.name}{Path(code_name(one.target)).suffix}")
        link(one, libraries[-1])
    return _Built(
        options.targets, tuple(libraries), tuple(compiled), (), {"AOTI_DEVICE_KEY": "cpu"}, weights
    )


def _build_stock(program: ExportedProgram, options: AotiOptions, folder: Path) -> _Built:
    if options.runtime == LEAN:
        raise ValueError(
            "--runtime lean cannot be: the model calls PyTorch's own operators: "
            f"{', '.join(other_operators(program.graph_module))}; use --delegate lowbit, or "
            "--runtime torch"
        )
    (target,) = options.targets
    files = _inductor(
        program,
        folder,
        {
            "cpp.march": target.march,
            "cpp.simdlen": target.vector_bits,
            "cpp.dynamic_threads": True,  # the number of threads is the runner's to choose
            "max_autotune": options.max_autotune,
        },
    )
    paths = [Path(file) for file in files]
    library = next(path for path in paths if path.suffix == ".so")
    # Operators that are called by name, where there are any.
    beside = tuple(path for path in paths if path == library.with_suffix(".json"))
    said = json.loads(library.with_name(f"{library.stem}_metadata.json").read_text())
    return _Built(options.targets, (library,), (), beside, said, {})


def _inductor(program: ExportedProgram, folder: Path, configs: dict) -> list:
    """Run AOTInductor with this machine's compiler; returns the files that it writes for a package, under
    `folder`, and a dict of weights with them where the options ask for it. `aoti_compile` compiles the
    sources for other machines."""
    arguments, keywords = program.example_inputs
    compiler = InductorCompiler.make(find_compiler_here(), folder)
    options = {"aot_inductor.package": True, "aot_inductor.metadata": {}, **compiler.options(), **configs}
    with _compiling_in(folder), compiler.used(), torch.no_grad():
        try:
            return torch._inductor.aot_compile(
                program.module(check_guards=False), arguments, keywords, options=options
            )
        except Exception as error:  # its own kinds, around an OSError or a compiler's words
            check_disk_full(str(error))
            raise


@contextmanager
def _weights_not_copied() -> Iterator[None]:
    """Let Inductor work on a program's own buffers: it copies each first, for programs that write to theirs,
    which those of our operators never do."""
    from torch._inductor import compile_fx

    before = compile_fx.clone_preserve_strides
    compile_fx.clone_preserve_strides = lambda buffer: buffer
    try:
        yield
    finally:
        compile_fx.clone_preserve_strides = before


@contextmanager
def _compiling_in(folder: Path) -> Iterator[None]:
    """Let Inductor's generated sources and objects go to `folder` instead of staying behind."""
    before = os.environ.get(INDUCTOR_CACHE)
    os.environ[INDUCTOR_CACHE] = str(folder / "inductor")
    try:
        yield
    finally:
        if before is None:
            del os.environ[INDUCTOR_CACHE]
        else:
            os.environ[INDUCTOR_CACHE] = before


def _code_metadata(built: _Built, options: AotiOptions) -> CodeMetadata:
    pairs = zip(built.targets, built.libraries, strict=True)
    called = sorted({name for target, library in pairs for name in _called(target, library)})
    missing = not_covered(called)
    lean = built.compiled and not missing  # AOTInductor's own library has libtorch beside it
    if not lean and options.runtime == LEAN:
        raise ValueError(
            "--runtime lean cannot be: the model calls what only libtorch has: "
            f"{', '.join(missing)}; use --delegate lowbit, or --runtime torch"
        )
    runtime = LEAN if lean and options.runtime != TORCH else TORCH
    index, offset = [], 0
    for name, tensor in built.weights.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        index.append({"name": name, "dtype": dtype, "shape": list(tensor.shape), "offset": offset})
        offset += _padded(tensor.nbytes)
    targets = [
        {
            "name": target.name,
            "machine": target.machine,
            "cpu_features": list(target.cpu_features),
            "folder": _folder(built, target),
        }
        for target in built.targets
    ]
    return CodeMetadata(
        runtime=runtime,
        targets=targets,
        # Those that the host must have; libtorch has more than one could list.
        host_functions=called if runtime == LEAN else missing,
        host_interface=_interface_version(),
        weights=index,
    )


def _called(target: Target, library: Path) -> tuple[str, ...]:
    if target.macos:
        return called_by_macos_library(library)
    return called_by_object(library) if target.linked else called_functions(library)


def _interface_version() -> str:
    """Name the version of what a model and its host call of each other, as
    `runner/backends/aoti_host/container.h` says it."""
    major, minor = torch.__version__.split(".")[:2]
    return f"{major}.{minor}/{ops.interface_version()}"


def _folder(built: _Built, target: Target) -> str:
    """Name the archive's folder of a target's code; PyTorch's loader takes the first target's."""
    return MODEL if target == built.targets[0] else f"{MODEL}-{target.name}"


def _write_package(built: _Built, package: Path, metadata: Metadata) -> None:
    strings = metadata.to_strings()
    stated = {k: v for k, v in strings.items() if k != TOKENIZER_KEY} | dict(built.torch_metadata)
    with written_whole(package) as part, Pt2Writer(part) as writer:
        writer.metadata(json.dumps(stated))
        writer.tokenizer(metadata.text.table)
        for target, library in zip(built.targets, built.libraries, strict=True):
            writer.file(_folder(built, target), code_name(target), library)
        for path in built.beside:
            writer.file(MODEL, f"model{path.suffix}", path)
        if built.weights:
            pieces = tensor_bytes(built.weights.values(), _WEIGHT_ALIGNMENT)
            writer.weights(_stored_bytes(built.weights), pieces)


def _write_library(built: _Built, library: Path, metadata: Metadata, folder: Path) -> None:
    """Write a library that is mapped as it lies, and its metadata beside it."""
    blob = folder / "weights.blob"
    if built.compiled:
        with blob.open("wb") as out:
            for piece in tensor_bytes(built.weights.values(), _WEIGHT_ALIGNMENT):
                out.write(piece)
    with written_whole(library) as part:
        if built.compiled:
            link(built.compiled[0], part, blob)
        else:
            shutil.copyfile(built.libraries[0], part)
    with written_whole(sidecar_of(library)) as part:
        part.write_text(json.dumps(metadata.to_strings(), indent=1) + "\n")
