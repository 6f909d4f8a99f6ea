"""Run one export, from a model's name to the files: each stage's value is the next one's input."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.metadata import CacheMetadata, Metadata, sidecar_of
from exporter.lower.aoti_options import AotiOptions, check_options
from exporter.lower.targets import NATIVE, baseline, find_targets
from exporter.pipeline.model_request import ModelRequest
from exporter.pipeline.prepare import Prepared, prepare
from exporter.recipe.recipe import REPORT_KEY, check_supported, resolve_dtype
from exporter.recipe.schemes import AOTI, EXECUTORCH, LOWBIT
from exporter.util.files import check_writable, written_whole
from exporter.util.progress import note, stage

if TYPE_CHECKING:
    from exporter.lowbit.decoder import Decoder
    from exporter.model.decoder import Transformer


@dataclass(frozen=True)
class OutputPaths:
    """The paths to write to; None: not asked for."""

    pte: Path | None = None
    package: Path | None = None
    library: Path | None = None

    def backends(self) -> tuple[str, ...]:
        executorch = (EXECUTORCH,) if self.pte else ()
        return executorch + ((AOTI,) if self.package or self.library else ())

    def paths(self) -> list[Path]:
        return [path for path in (self.pte, self.package, self.library) if path is not None]

    def files(self) -> list[Path]:
        """List every file that will be written: a library has its metadata beside it."""
        sidecar = [] if self.library is None else [sidecar_of(self.library)]
        return self.paths() + sidecar

    def recipe(self) -> Path:
        """Return the path of the fitted recipe."""
        return self.paths()[0].with_suffix(".recipe.json")


@dataclass(frozen=True)
class Request:
    """An export as the command line asks for it."""

    model: ModelRequest
    outputs: OutputPaths
    target: str | None = None  # None: the baseline of this machine; native for stock operators
    runtime: str = "auto"
    max_autotune: bool = False


def run(request: Request) -> None:
    """Export what is asked for. Raises ValueError or OSError with a line that names the value and the
    remedy."""
    backends = request.outputs.backends()
    form = request.model.form
    dtype = resolve_dtype(form.dtype, form.recipe, backends)
    check_supported(form.recipe, backends, dtype, form.delegate)
    lowbit = form.delegate == LOWBIT
    targets = find_targets(request.target or (baseline() if lowbit else NATIVE))
    recipe_file = [] if form.fit is None else [request.outputs.recipe()]
    for path in request.outputs.files() + recipe_file:
        check_writable(path)
    if AOTI in backends:
        aoti = AotiOptions(
            targets, lowbit, request.runtime, request.max_autotune,
            request.outputs.package, request.outputs.library,
        )  # fmt: skip
        check_options(aoti)
    prepared = prepare(request.model, backends, request.outputs.paths()[0].parent)
    if request.outputs.pte is not None:
        _to_executorch(prepared.model, prepared.metadata, request.outputs.pte)
    if AOTI in backends:
        _to_aoti(prepared.model, prepared.metadata, aoti)
    if prepared.fit:
        _write_recipe(prepared, request.outputs)
    if prepared.work is not None:
        prepared.work.remove()


def _write_recipe(prepared: Prepared, outputs: OutputPaths) -> None:
    """Write the fitted recipe beside the first output, as `--quantize` takes it, with what became of it."""
    path = outputs.recipe()
    sizes = {file.name: file.stat().st_size for file in outputs.paths()}
    most = prepared.fit["most_bytes"]
    for name, size in sizes.items():
        if most is not None and size > most:
            note(f"warning: {name} has {size / 1e6:.2f} MB, more than the budget's {most / 1e6:.2f}")
    report = {**prepared.fit, "file_bytes": sizes}
    recipe = {**json.loads(prepared.metadata.recipe.to_json()), REPORT_KEY: report}
    with written_whole(path) as part:
        part.write_text(json.dumps(recipe, indent=1) + "\n")
    note(f"wrote {path}: --quantize takes it")


def _to_executorch(model: "Decoder", metadata: Metadata, path: Path) -> None:
    from exporter.lower.program import export_buffer_caches, export_functional

    with stage("torch.export"):
        lowbit = metadata.delegate == LOWBIT
        program = export_functional(model) if lowbit else export_buffer_caches(model)
    with stage("lowering to ExecuTorch"):
        from exporter.lower.to_executorch import lower

        lower(program, replace(metadata, backend=EXECUTORCH), path)
    _announce(path)


def _to_aoti(model: "Decoder", metadata: Metadata, options: AotiOptions) -> None:
    from exporter.lower.program import export_input_caches, export_stateful
    from exporter.lower.to_aoti import lower

    metadata = replace(metadata, backend=AOTI)
    with stage("torch.export"):
        if metadata.delegate == LOWBIT:
            program = export_stateful(model)
        else:
            program = export_input_caches(model)
            metadata = replace(metadata, caches=_caches_of(model))
    with stage("compiling with AOTInductor"):
        lower(program, metadata, options)
    for path in (options.package, options.library):
        if path is not None:
            _announce(path)


def _caches_of(model: "Transformer") -> CacheMetadata:
    keys, values = model.new_caches()[:2]
    return CacheMetadata(
        count=2 * model.config.n_layers,
        key_shape=tuple(keys.shape),
        value_shape=tuple(values.shape),
        dtype=str(keys.dtype).removeprefix("torch."),
    )


def _announce(path: Path) -> None:
    note(f"wrote {path} ({path.stat().st_size / 1e6:.0f} MB)")
