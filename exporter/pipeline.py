"""One export, from a model's name to the files: each stage's value is the next one's input."""

import base64
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from exporter import __version__
from exporter.artifact import (
    TOKENIZER_KEY,
    check_writable,
    model_metadata,
    sampling_defaults,
    sidecar_of,
    versions,
)
from exporter.progress import note, stage
from exporter.recipe import Recipe, check_supported, resolve_dtype, slow_paths
from exporter.schemes import AOTI, EXECUTORCH, LOWBIT
from exporter.targets import NATIVE, baseline, find_targets

DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class Outputs:
    """Where to write; None = not asked for."""

    pte: Path | None = None
    package: Path | None = None
    library: Path | None = None

    def backends(self) -> tuple[str, ...]:
        executorch = (EXECUTORCH,) if self.pte else ()
        return executorch + ((AOTI,) if self.package or self.library else ())

    def paths(self) -> list[Path]:
        return [path for path in (self.pte, self.package, self.library) if path is not None]

    def files(self) -> list[Path]:
        """Every file that will be written: a library has its metadata beside it."""
        sidecar = [] if self.library is None else [sidecar_of(self.library)]
        return self.paths() + sidecar


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    model: str
    outputs: Outputs
    recipe: Recipe
    checkpoint: Path | None = None
    tokenizer: Path | None = None
    dtype: str | None = None
    max_seq_length: int | None = None
    target: str | None = None  # None: the baseline of this machine; native for stock operators
    runtime: str = "auto"
    max_autotune: bool = False
    delegate: str = LOWBIT
    cache_dtype: str | None = None  # None: float32 for unquantized float32 models, else float16


def run(request: Request) -> None:
    """Export. Raises ValueError or OSError with a line that names the value and the remedy."""
    backends = request.outputs.backends()
    dtype = resolve_dtype(request.dtype, request.recipe, backends)
    check_supported(request.recipe, backends, dtype, request.delegate)
    lowbit = request.delegate == LOWBIT
    targets = find_targets(request.target or (baseline() if lowbit else NATIVE))
    for path in request.outputs.files():
        check_writable(path)
    for line in slow_paths(request.recipe, backends, dtype, request.delegate):
        note(f"warning: {line}")

    with stage("loading torch"):
        import torch

        if AOTI in backends:
            from exporter.lower_aoti import AotiOptions, check_options

            aoti = AotiOptions(
                targets, lowbit, request.runtime, request.max_autotune,
                request.outputs.package, request.outputs.library,
            )  # fmt: skip
            check_options(aoti)

        from exporter import checkpoint as checkpoints
        from exporter.chat import reduce_template
        from exporter.export import limits
        from exporter.model import load_model
        from exporter.tokenizer import read_tokenizer, stop_ids

    with stage(f"reading {request.model}"):
        checkpoint = checkpoints.open_checkpoint(
            request.model, request.checkpoint, request.tokenizer, progress=note
        )
    with stage("checking the tokenizer"):
        if checkpoint.tokenizer_path is None:
            raise ValueError(f"{request.model} has no tokenizer beside it; give --tokenizer PATH")
        tokenizer = read_tokenizer(checkpoint.tokenizer_path)
        if tokenizer.n_pieces > checkpoint.config.vocab_size:
            raise ValueError(
                f"{checkpoint.tokenizer_path} has {tokenizer.n_pieces} pieces but the model only "
                f"{checkpoint.config.vocab_size}: give the model's own with --tokenizer PATH"
            )
        chat = reduce_template(tokenizer.chat_template, tokenizer)
        if not chat["reducible"]:
            note(f"  no chat mode: {chat['reason']}")
        stops = stop_ids(tokenizer, dict(checkpoint.generation))
        sampling = sampling_defaults(checkpoint.generation)
    with stage("reading the weights"):
        context = request.max_seq_length or min(DEFAULT_CONTEXT, checkpoint.config.context_length)
        # Packing starts from float32, which the lowbit kernels compute in.
        stored = torch.float32 if lowbit else getattr(torch, dtype)
        model = load_model(checkpoint, stored, context)
    bounds = limits(model)
    metadata = {
        **versions(
            __version__,
            torch=torch.__version__,
            torchao=version("torchao") if request.recipe.is_quantized() else "",
            executorch=version("executorch") if request.outputs.pte else "",
        ),
        **model_metadata(
            checkpoint.name, checkpoint.config, context, dtype, request.recipe.to_json()
        ),
        "delegate": request.delegate,
        "max_chunk": str(bounds.max_chunk),
        "max_rows": str(bounds.max_rows),
        "tokenizer_kind": tokenizer.kind,
        "tokenizer_size": str(len(tokenizer.table)),
        "n_pieces": str(tokenizer.n_pieces),
        "bos_id": str(-1 if tokenizer.bos_id is None else tokenizer.bos_id),
        "eos_id": str(-1 if tokenizer.eos_id is None else tokenizer.eos_id),
        "add_bos": str(tokenizer.add_bos).lower(),
        "stop_ids": json.dumps(stops),
        "chat": json.dumps(chat),
        "sampling": sampling,
        "checkpoint_digest": checkpoint.digest,
        TOKENIZER_KEY: base64.b64encode(tokenizer.table).decode(),
    }
    if lowbit:
        with stage("packing the weights"):
            from exporter.lowbit_model import LowbitTransformer, PackOptions

            options = PackOptions(request.recipe, getattr(torch, dtype))
            word = request.cache_dtype or _cache_dtype(request.recipe, dtype)
            model = LowbitTransformer(model, options, getattr(torch, word), note)
    elif request.recipe.is_quantized():
        with stage(f"quantizing: {request.recipe.to_json()}"):
            from exporter.quantize import quantize

            quantize(model, request.recipe, lambda line: note(f"  warning: {line}"))
    # The stages below hold the weights; nothing else needs the checkpoint.
    del checkpoint, tokenizer
    if request.outputs.pte is not None:
        _to_executorch(model, request, metadata, request.outputs.pte)
    if AOTI in backends:
        _to_aoti(model, metadata, aoti)


def _cache_dtype(recipe: Recipe, dtype: str) -> str:
    exact = dtype == "float32" and not recipe.is_quantized()
    return "float32" if exact else "float16"


def _to_executorch(model, request: Request, metadata: dict[str, str], path: Path) -> None:
    from exporter.export import export_buffer_caches, export_functional

    with stage("torch.export with cache buffers"):
        lowbit = request.delegate == LOWBIT
        program = export_functional(model) if lowbit else export_buffer_caches(model)
    with stage("lowering to ExecuTorch"):
        from exporter.lower_executorch import lower

        lower(program, request.recipe, request.delegate, {**metadata, "backend": EXECUTORCH}, path)
    _announce(path)


def _to_aoti(model, metadata: dict[str, str], options) -> None:
    from exporter.export import export_input_caches
    from exporter.lower_aoti import lower

    with stage("torch.export with cache inputs"):
        program = export_input_caches(model)
    keys, values = model.new_caches()[:2]
    metadata = {
        **metadata,
        "backend": AOTI,
        "n_caches": str(2 * model.config.n_layers),
        "key_cache_shape": json.dumps(list(keys.shape)),
        "value_cache_shape": json.dumps(list(values.shape)),
        "cache_dtype": str(keys.dtype).removeprefix("torch."),
    }
    with stage("compiling with AOTInductor"):
        lower(program, metadata, options)
    for path in (options.package, options.library):
        if path is not None:
            _announce(path)


def _announce(path: Path) -> None:
    note(f"wrote {path} ({path.stat().st_size / 1e6:.0f} MB)")
