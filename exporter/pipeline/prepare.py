"""Make the decoder that is exported or run eagerly from a model's name, and describe it."""

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import __version__
from exporter.artifact.metadata import Metadata, StateMetadata, TextMetadata, Versions
from exporter.model.generation_settings import sampling_settings
from exporter.pipeline.model_request import ModelRequest, ModelSource
from exporter.recipe.model_limits import check_model
from exporter.recipe.recipe import Recipe, check_supported, resolve_dtype, slow_paths
from exporter.recipe.schemes import EXECUTORCH, LOWBIT
from exporter.util.progress import note, stage

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint
    from exporter.lowbit.decoder import Decoder, LowbitTransformer
    from exporter.quality.checkpointing import Work
    from exporter.tokenizer.tokenizer import Tokenizer

DEFAULT_CONTEXT = 2048
LONGEST_CONTEXT = 1 << 20  # of a state (kernels/state/layout.h)


@dataclass(frozen=True)
class Described:
    """A checkpoint with its tokenizer, and the metadata of text that they alone decide."""

    checkpoint: "Checkpoint"
    tokenizer: "Tokenizer"
    text: TextMetadata


@dataclass(frozen=True)
class Prepared:
    """A decoder in the form that is lowered, and the artifact's metadata as far as no backend adds to it."""

    model: "Decoder"
    metadata: Metadata  # its recipe is the request's, or the one that was fitted
    work: "Work | None" = None  # a finished calibration, to be removed when all is written
    fit: dict = field(default_factory=dict)  # what a fit predicted and measured


def describe(source: ModelSource, max_seq_length: int | None = None) -> Described:
    """Open the checkpoint and read its tokenizer, chat template, stop tokens and sampling defaults; all
    without torch.

    Raises ValueError or OSError with a line that names the value and the remedy.
    """
    for name in (source.model, source.checkpoint, source.tokenizer, *(a.place for a in source.adapters)):
        _check_name(name)
    with stage(f"reading {source.model}"):
        from exporter.checkpoint.checkpoint import open_checkpoint

        checkpoint = open_checkpoint(
            source.model, source.checkpoint, source.tokenizer, note, source.adapters
        )
        if checkpoint.dequantized:
            note(f"  {source.model} is quantized already ({checkpoint.dequantized}): its weights are read as "
                 "the floats that they stand for")  # fmt: skip
        for adapter in checkpoint.adapters:
            own = adapter.own_tokenizer(checkpoint.tokenizer_path)
            if own is not None and source.tokenizer is None:
                note(f"  adapter {adapter.name} has another tokenizer than the model, {own}: give it with "
                     "--tokenizer to use it")  # fmt: skip
        if max_seq_length is not None:
            checkpoint.config.check_length(max_seq_length)
        if checkpoint.tokenizer_path is None:
            raise ValueError(f"{source.model} has no tokenizer beside it; give --tokenizer PATH")
    with stage("checking the tokenizer"):
        from exporter.chat.take_over import notes, take_over_template
        from exporter.tokenizer.end_tokens import completed, token_sources
        from exporter.tokenizer.tokenizer import read_tokenizer

        tokenizer = read_tokenizer(checkpoint.tokenizer_path)
        vocab_size = checkpoint.config.vocab_size
        if tokenizer.n_text_pieces > vocab_size:
            raise ValueError(
                f"{checkpoint.tokenizer_path} has {tokenizer.n_pieces} pieces but the model only "
                f"{vocab_size}: give the model's own with --tokenizer PATH"
            )
        beyond = [tokenizer.token_name(id) for id in range(vocab_size, tokenizer.n_pieces)]
        if beyond:
            names = ", ".join(beyond[:3]) + (", ..." if len(beyond) > 3 else "")
            note(f"  warning: the model's table of {vocab_size} has no row for {names}: "
                 "a prompt that holds such a token is refused")  # fmt: skip
        chat = take_over_template(tokenizer.chat_template, tokenizer)
        for line in notes(chat):
            note(f"  {line}")
        sources = token_sources(tokenizer, checkpoint.generation, checkpoint.token_ids, vocab_size)
        for line in sources.warnings:
            note(f"  warning: {line}")
        tokenizer = completed(tokenizer, sources)
        bos_id, eos_id = (
            -1 if id is None or id >= vocab_size else id for id in (tokenizer.bos_id, tokenizer.eos_id)
        )
    sampling, not_applied = sampling_settings(checkpoint.generation, vocab_size, sources.stop_ids)
    for line in not_applied:
        note(f"  {line}")
    text = TextMetadata(
        tokenizer_kind=tokenizer.kind,
        table=tokenizer.table,
        n_pieces=tokenizer.n_pieces,
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=tokenizer.add_bos,
        stop_ids=sources.stop_ids,
        token_sources=sources.to_dict(tokenizer),
        chat=chat,
        sampling=sampling,
    )
    return Described(checkpoint, tokenizer, text)


def _check_name(path: str | Path | None) -> None:
    """Raise ValueError for a name that is no text: bytes that are not UTF-8, which Python keeps as lone
    surrogates."""
    text = str(path or "")
    try:
        text.encode()
    except UnicodeEncodeError:
        named = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise ValueError(
            f"{named}: the name is not UTF-8, and the libraries that read checkpoints take no other; "
            "rename it, or give a link to it (ln -s)"
        ) from None


def prepare(request: ModelRequest, backends: tuple[str, ...], folder: Path | None = None) -> Prepared:
    """Make the decoder of `request`, packed or quantized, for `backends` (none: to run eagerly). Packed
    weights are kept in files of `folder` that have no name; in memory where there is none.

    Raises ValueError or OSError with a line that names the value and the remedy.
    """
    form = request.form
    dtype = resolve_dtype(form.dtype, form.recipe, backends)
    check_supported(form.recipe, backends, dtype, form.delegate)
    for line in slow_paths(form.recipe, backends, dtype, form.delegate):
        note(f"warning: {line}")
    if form.fit is not None and not backends:
        raise ValueError(
            f"--fit {form.fit} is for an export, which writes the recipe that it finds: export, "
            "then give the artifact, or --quantize NAME.recipe.json"
        )
    described = describe(request.source, form.max_seq_length)
    checkpoint = described.checkpoint
    check_model(checkpoint.config, form.recipe, backends, form.delegate, form.fit)
    if form.delegate == LOWBIT and (form.max_seq_length or 0) > LONGEST_CONTEXT:
        raise ValueError(
            f"--max-seq-length {form.max_seq_length} is beyond {LONGEST_CONTEXT}, the longest context of the "
            f"{LOWBIT} kernels; choose a smaller one"
        )

    with stage("loading torch"):
        import torch

        from exporter.checkpoint.load import load_model
        from exporter.checkpoint.streamed import stream_model
        from exporter.lowbit.decoder import layout_version
        from exporter.lower.program import forward_limits

    lowbit = form.delegate == LOWBIT
    context = form.max_seq_length or min(DEFAULT_CONTEXT, checkpoint.config.context_length)

    recipe, work, measured, operators, state = form.recipe, None, {}, "", None
    if lowbit:
        from exporter.lowbit import ops
        from exporter.pipeline.packed import Job, packed

        job = Job(
            request, described.tokenizer, _source_digest(checkpoint),
            lambda as_stored: stream_model(checkpoint, context, as_stored),
            getattr(torch, dtype), form.cache_dtype or _cache_dtype(recipe, dtype),
            backends, folder,
        )  # fmt: skip
        model, recipe, work, measured = packed(job)
        operators = str(ops.interface_version())
        state = _state_metadata(model, bool(backends))
        if work is not None and not backends:  # nothing is written that could fail yet
            work.remove()
            work = None
    else:
        with stage("reading the weights"):
            model = load_model(checkpoint, getattr(torch, dtype), context)
        if recipe.is_quantized():
            with stage(f"quantizing: {recipe.to_json()}"):
                from exporter.contrib.torchao.quantize import quantize

                quantize(model, recipe, lambda line: note(f"  warning: {line}"))
    self_test = None
    if backends:
        with stage("making the self-test"):
            from exporter.pipeline.self_test import make_self_test

            self_test = make_self_test(described.tokenizer, described.text.chat, model if lowbit else None)
    bounds = forward_limits(model)
    metadata = Metadata(
        versions=Versions(
            kernel_layout=layout_version(model),
            exporter=__version__,
            operators=operators,
            torch=torch.__version__,
            torchao=version("torchao") if recipe.is_quantized() else "",
            executorch=version("executorch") if EXECUTORCH in backends else "",
        ),
        model_name=checkpoint.name,
        config=checkpoint.config,
        context_length=context,
        dtype=dtype,
        recipe=recipe,
        delegate=form.delegate,
        max_chunk=bounds.max_chunk,
        max_rows=bounds.max_rows,
        text=described.text,
        checkpoint_digest=checkpoint.digest,
        adapters=tuple(adapter.to_dict() for adapter in checkpoint.adapters),
        state=state,
        self_test=self_test,
    )
    return Prepared(model, metadata, work, measured)


def _source_digest(checkpoint: "Checkpoint") -> str:
    """Name the weights that are packed, adapters among them."""
    merged = [f"{adapter.digest} {adapter.scale!r}" for adapter in checkpoint.adapters]
    return " ".join([checkpoint.digest, *merged])


def _state_metadata(model: "LowbitTransformer", saves: bool) -> StateMetadata:
    """Describe the states of `model`; where no session can be saved, without a digest."""
    from exporter.lowbit.decoder import model_digest
    from exporter.lower.program import forward_limits

    layout = model.state_layout()
    return StateMetadata(
        layers=tuple((layer.kv_heads, layer.head_dim, layer.rope) for layer in layout.layers),
        rotations=layout.rotations,
        cache_dtype=model.cache_dtype,
        longest_context=min(model.config.context_length, LONGEST_CONTEXT),
        max_segments=forward_limits(model).max_segments,
        model_digest=model_digest(model) if saves else "",
    )


def _cache_dtype(recipe: Recipe, dtype: str) -> str:
    exact = dtype == "float32" and not recipe.is_quantized()
    return "float32" if exact else "float16"
