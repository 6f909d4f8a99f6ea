"""Pack the decoder by a recipe: its method's transforms and rounding, and the fit to a budget."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from exporter import __version__
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.few_levels import few_levels_warning
from exporter.lowbit.on_disk import in_memory, on_disk
from exporter.lowbit.pack import PackOptions
from exporter.model.config import ModelConfig
from exporter.model.decoder import Transformer
from exporter.model.matrices import model_matrices, model_vectors, parameter_shapes
from exporter.recipe.methods import parse_method
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import AOTI, EXECUTORCH, LinearScheme
from exporter.util.progress import note, stage

if TYPE_CHECKING:
    from exporter.pipeline.model_request import ModelRequest
    from exporter.quality.budget import Budget
    from exporter.quality.calibration import Calibration
    from exporter.quality.checkpointing import Work
    from exporter.quality.measured import Expected
    from exporter.tokenizer.tokenizer import Tokenizer

# Bytes of code and metadata in a file: (of any, for each layer). From files of SmolLM2-135M (30 layers) and
# Llama 3.2 1B (16), 2026-11-22: a quarter more than a .pt2 for one target takes, and twice what a .pte does,
# which is little.
PROGRAM_BYTES = {EXECUTORCH: (40_000, 4_000), AOTI: (500_000, 14_000)}
FIT_ATTEMPTS = 3  # fits to a KL, each with the prediction corrected by what the one before measured
FIT_MARGIN = 1.05  # by which a correction goes beyond what was measured


@dataclass(frozen=True)
class Job:
    """A model to be packed, and how: `load` opens the float model anew, of `stream_model`, with whether
    it is `as_stored`. Packed weights are kept in files of `folder`; in memory where there is none."""

    request: "ModelRequest"
    tokenizer: "Tokenizer"
    checkpoint_digest: str
    load: Callable[[bool], Transformer]
    dtype: torch.dtype
    cache_dtype: str  # of what is run eagerly, and the default of what is exported
    backends: tuple[str, ...]  # what it is lowered to; none: run eagerly
    folder: Path | None


Packed = tuple[LowbitTransformer, Recipe, "Work | None", dict]


def packed(job: Job) -> Packed:
    """Pack the model of a job; returns the decoder, the recipe that it has, its calibration's folder, and a
    fit's report.

    Raises ValueError where the model does not allow the recipe or the budget.
    """
    recipe = job.request.form.recipe
    linear = recipe.linear
    plain = job.request.form.fit is None and (linear is None or all(m.is_plain() for m in linear.methods()))
    with stage("reading the embedding"):
        model = job.load(plain)  # nothing computes with what is only packed
    _check_patterns(linear, model)
    _check_rows(recipe, model.config)
    warning = few_levels_warning(recipe, model)
    if warning is not None:
        note(f"warning: {warning}")
    if plain:
        return _pack(job, model, recipe, {}), recipe, None, {}
    if job.request.form.fit is not None:
        _check_room(job, model)
    calibration = _calibration(job, model)
    goal = None if job.request.form.fit is None else _goal(job, model, calibration)
    with stage(f'changing the weights by "{linear.method}"'):
        from exporter.quality.calibrated import transform

        transform(model, linear, note)
    if goal is not None:
        return _fitted(job, model, calibration, goal)
    found, work = _by_method(job, model, recipe, calibration)
    return _pack(job, model, recipe, found), recipe, work, {}


def _check_patterns(linear: LinearScheme | None, model: Transformer) -> None:
    *names, _ = (name for name, matrix in model_matrices(model.config).items() if not matrix.is_router)
    for pattern, _ in () if linear is None else linear.layers:
        if not any(fnmatchcase(name, pattern) for name in (*names, "output")):
            kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise ValueError(
                f'"{linear.key}", layers: no matrix of this model is called "{pattern}"; they are '
                f"{names[0]} to {names[-1]} ({kinds}) and output"
            )


def _check_rows(recipe: Recipe, config: ModelConfig) -> None:
    linear, embedding = recipe.linear, recipe.embedding
    schemes = [] if linear is None else [
        (linear.for_layer(name), name, rows) for name, (rows, _) in _packed_shapes(config).items()
    ]  # fmt: skip
    if embedding is not None:
        schemes.append((embedding, "the embedding", config.vocab_size))
    for scheme, name, n in schemes:
        for row, _ in scheme.bitwidth_from_row:
            if row >= n:
                raise ValueError(
                    f'"{scheme.key}", bitwidth_from_row: {name} has {n} rows, so row {row} is none of '
                    "them; leave it out"
                )


def _packed_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return rows and columns of the packed matrices, `output` among them."""
    return {name: m.shape for name, m in model_matrices(config).items() if not m.is_router}


def _pack(job: Job, model: Transformer, recipe: Recipe, found: dict) -> LowbitTransformer:
    with stage("packing the weights"):
        keep = in_memory if job.folder is None else on_disk(job.folder)
        options = PackOptions(recipe, job.dtype, found, keep)
        return LowbitTransformer(model, options, job.cache_dtype, note)


def _calibration(job: Job, model: Transformer) -> "Calibration | None":
    """Get the text that the method looks at, by the float model as it is; None for a method that looks at
    none."""
    form, asked = job.request.form, job.request.calibration
    if form.fit is None and not form.recipe.linear.needs_calibration():
        return None
    from exporter.quality import calibration

    with stage("reading the calibration text"):
        if not asked.texts:
            note("  no --calibrate FILE: calibrating with text that the model writes")
        own_text = _own_text(job)
        try:
            found = calibration.calibration_of(
                asked.sources(), model, job.tokenizer, model.max_seq_length, asked.tokens, own_text,
            )  # fmt: skip
        except KeyboardInterrupt:
            if own_text.is_file():
                note(f"{own_text} keeps what is written: the same command goes on from there")
            raise
        note(f"  {found.tokens.numel()} tokens, in windows of {found.tokens.shape[1]}")
    return found


def _by_method(
    job: Job, model: Transformer, recipe: Recipe, calibration: "Calibration | None"
) -> tuple[dict, "Work"]:
    """Quantize the matrices that the recipe's method rounds; returns them, and where unfinished work is
    kept."""
    from exporter.quality.calibrated import apply_method
    from exporter.quality.checkpointing import Work

    digest = _digest(job, recipe.to_json(), calibration)
    tokens = None if calibration is None else calibration.tokens
    # A fit keeps the text with its sensitivities, for the next budget.
    writes = tokens is not None and None in job.request.calibration.sources() and job.request.form.fit is None
    work = Work(
        job.request.calibration.work_folder / f".calibration-{digest}", _own_text(job) if writes else None
    )
    try:
        with stage(f'quantizing by "{recipe.linear.method}"'):
            return apply_method(model, recipe.linear, recipe.embedding, tokens, work, note), work
    except KeyboardInterrupt:
        if work.folder.is_dir():
            note(f"{work.folder} keeps the finished layers: the same command goes on from there")
        raise


@dataclass(frozen=True)
class Goal:
    """A fit's budget, the float model's number of weights, and its answers to held-out text."""

    budget: "Budget"
    weights: int
    expected: "Expected"


def _goal(job: Job, model: Transformer, calibration: "Calibration") -> Goal:
    """Return the goal of a fit, measured of the float model as it is. Raises ValueError where the text is too
    short to hold some out."""
    from exporter.quality.budget import parse_budget
    from exporter.quality.calibration import PER_HELD_OUT
    from exporter.quality.measured import Expected
    from exporter.quality.sensitivity import windows_needed

    if len(calibration.tokens) < windows_needed():
        needed = windows_needed() * calibration.tokens.shape[1]
        raise ValueError(
            f"--fit {job.request.form.fit}: {calibration.tokens.numel()} tokens of calibration text are too "
            f"few to measure with; give a text of {needed + needed // PER_HELD_OUT:,} tokens or more, and "
            f"--calibration-tokens {needed} or more, or none"
        )
    with stage("the float model's answers"):
        expected = Expected(model, calibration.held_out)
    return Goal(parse_budget(job.request.form.fit), _weights(model.config), expected)


def _check_room(job: Job, model: Transformer) -> None:
    """Raise ValueError, before what takes minutes, where a fit's size is below the smallest formats'."""
    from exporter.quality.budget import parse_budget
    from exporter.quality.choices import smallest_bytes
    from exporter.quality.fit import check_room

    most = parse_budget(job.request.form.fit).most_bytes(_weights(model.config))
    if most is None:
        return
    shapes = _packed_shapes(model.config)
    tied = model.output.weight is model.tok_embeddings.weight
    retied = "retie" in parse_method(job.request.form.recipe.linear.method).transforms
    table = () if tied or retied else (shapes["output"],)  # the embedding's own
    check_room(smallest_bytes((*shapes.values(), *table)), most - _fixed_bytes(job, model))


def _weights(config: ModelConfig) -> int:
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


def _fitted(job: Job, model: Transformer, calibration: "Calibration", goal: Goal) -> Packed:
    """Measure sensitivities, choose formats, quantize, and measure what came out; where a KL was
    asked for and missed, once more with the prediction corrected."""
    from exporter.quality.calibrated import transform
    from exporter.quality.fit import fit, fit_report, fitted_recipe

    budget, weights, expected = goal.budget, goal.weights, goal.expected
    base = job.request.form.recipe
    # `fitted_recipe` gives both one format: whether there is one table is the model's affair.
    shared = model.output.weight is model.tok_embeddings.weight
    units = _sensitivities(job, model, shared, calibration)
    most, fixed = budget.most_bytes(weights), _fixed_bytes(job, model)
    factor = 1.0
    for attempt in range(FIT_ATTEMPTS):
        found = fit(
            units,
            None if most is None else most - fixed,
            None if budget.kl is None else budget.kl / factor,
        )
        recipe = fitted_recipe(found, base, shared)
        quantized, work = _by_method(job, model, recipe, calibration)
        lowbit = _pack(job, model, recipe, quantized)
        with stage("measuring"):
            measured = expected.kl_of(lowbit)
        report = fit_report(found, budget, weights, fixed, factor, measured)
        note(f"  KL predicted {report['predicted_kl']:.4f}, measured {measured:.4f} nats")
        if budget.kl is None or measured <= budget.kl:
            return lowbit, recipe, work, report
        work.remove()
        factor *= FIT_MARGIN * measured / report["predicted_kl"]
        if attempt + 1 < FIT_ATTEMPTS:
            note(f"  {budget.text} is missed: fitting again")
            del lowbit, quantized
            model = job.load(False)
            transform(model, base.linear, note)
    raise ValueError(
        f"--fit {budget.text}: the last try has a KL of {measured:.4f} nats; ask for a larger one"
    )


def _sensitivities(job: Job, model: Transformer, shared: bool, calibration: "Calibration"):
    """Measure the sensitivities, or read what an earlier fit of the same model, method and text measured."""
    from exporter.quality.choices import read_units, write_units
    from exporter.quality.sensitivity import SENSITIVITY_VERSION, sensitivities

    linear = job.request.form.recipe.linear
    digest = _digest(job, f"{SENSITIVITY_VERSION} {linear.method}", calibration)
    path = job.request.calibration.work_folder / f".sensitivity-{digest}.json"
    units = read_units(path)
    if units is not None:
        note(f"sensitivities as {path} has them")
        return units
    with stage("measuring sensitivity"):
        units = sensitivities(model, linear, shared, calibration, note)
    write_units(path, units)
    return units


def _own_text(job: Job) -> Path:
    """Name the file that keeps what the model writes, of one vocabulary, number of windows and length."""
    asked, tokenizer = job.request.calibration, job.tokenizer
    shape = (len(asked.sources()), asked.tokens, job.request.form.max_seq_length)
    digest = _digest(job, f"text {tokenizer.n_pieces} {tokenizer.bos_id} {shape}", None)
    return asked.work_folder / f".calibration-text-{digest}.safetensors"


def _digest(job: Job, what: str, calibration: "Calibration | None") -> str:
    """Name work on one checkpoint, `what`, one text and one version of ours."""
    from exporter.quality.gptq import GptqOptions

    text = "" if calibration is None else calibration.digest
    key = f"{job.checkpoint_digest} {what} {text} {GptqOptions()} {__version__}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _fixed_bytes(job: Job, model: Transformer) -> int:
    """Estimate the bytes of the largest output file beside the packed matrices."""
    return len(job.tokenizer.table) + _program_bytes(job, model) + _float_bytes(model)


def _program_bytes(job: Job, model: Transformer) -> int:
    """Estimate the bytes of code and metadata in the largest output file."""
    code = (PROGRAM_BYTES[backend] for backend in job.backends)
    return max(fixed + a_layer * model.config.n_layers for fixed, a_layer in code)


def _float_bytes(model: Transformer) -> int:
    """Count the bytes of norms, biases and the small matrix before the output."""
    config = model.config
    vectors = sum(vector.size for vector in model_vectors(config).values())
    biases = sum(matrix.rows for matrix in model_matrices(config).values() if matrix.bias)
    return 4 * (vectors + biases) + (0 if model.head is None else model.head.weight.numel() * 2)
