"""Define the flags that say which model is meant and what it is to become."""

import argparse
from dataclasses import replace
from pathlib import Path

from exporter.cli.adapter_option import add_adapter_option
from exporter.cli.command_line import UsageError, one_of, positive
from exporter.pipeline.model_request import CalibrationRequest, ModelForm, ModelRequest, ModelSource
from exporter.quality.budget import parse_budget
from exporter.recipe.methods import CALIBRATED
from exporter.recipe.recipe import (
    ACCELERATORS,
    CACHE_DTYPES,
    DTYPES,
    Recipe,
    parse_recipe,
    resolve_device,
)
from exporter.recipe.schemes import DELEGATES, LOWBIT, LinearScheme
from exporter.recipe.source import ready_recipes

OWN = "self"  # instead of a file: what the model writes


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--quantize` and what else decides the model that MODEL becomes."""
    add = parser.add_argument
    add("--quantize", metavar="JSON|FILE|NAME",
        help=f"recipe: JSON text, a file, or a ready one: {ready_recipes()}")  # fmt: skip
    add("--fit", metavar="BUDGET",
        help="choose bits, group size and rounding of every matrix for a file size (120MB), bits a "
             "weight (4.0bpw) or a divergence (kl<0.01); exports only")  # fmt: skip
    add("--calibrate", action="append", default=[], metavar="FILE",
        help=f"UTF-8 text for the methods gptq, awq and smoothquant, or {OWN}: text that the model "
             f"writes (default); more than once: as much of each")  # fmt: skip
    add("--calibration-tokens", type=positive, metavar="N",
        help="how many tokens of that text, in windows of 512 (default 49152; 64 windows of 256 where the "
             "model writes all): more take longer and more memory")  # fmt: skip
    add("--delegate", default=LOWBIT, type=one_of(DELEGATES), metavar="NAME",
        help="whose kernels run the model: lowbit, this project's (default); xnnpack, for "
             "linear:a8w4dq in a .pte; stock, PyTorch's and ExecuTorch's own")  # fmt: skip
    add("--cache-dtype", default="auto", type=one_of(CACHE_DTYPES), metavar="TYPE",
        help="KV cache of the lowbit kernels; of an export, where the program that runs it does not "
             "choose: " + ", ".join(CACHE_DTYPES) + " (auto: an artifact's own; fp32 for an unquantized "
             "fp32 model, else fp16)")  # fmt: skip
    add("--dtype", metavar="TYPE", type=one_of(("fast", "fast16", *DTYPES)),
        help="fast, fast16, " + ", ".join(DTYPES) + " (default fp32)")  # fmt: skip
    add("--device", type=one_of(ACCELERATORS), metavar="NAME",
        help="this version exports for the CPU (default)")  # fmt: skip
    add("--max-seq-length", type=positive, metavar="N",
        help="context length; of an export on the lowbit kernels, where the program that runs it does not "
             "choose (default: an artifact's own; the model's own, at most 2048)")  # fmt: skip
    add("--checkpoint", type=Path, metavar="PATH", help="weights, where MODEL is only a name")
    add_adapter_option(parser)
    add("--tokenizer", type=Path, metavar="PATH",
        help="tokenizer.json, tokenizer.model, tekken.json or .gguf")  # fmt: skip


def model_request(model: str, options: argparse.Namespace) -> ModelRequest:
    """Read from `add_model_options`' flags what is asked of `model`. Raises UsageError for what cannot be."""
    cache_dtype = CACHE_DTYPES[options.cache_dtype]
    if cache_dtype is not None and options.delegate != LOWBIT:
        raise UsageError(
            f"--cache-dtype {options.cache_dtype} is for --delegate {LOWBIT}; "
            f"{options.delegate} kernels cache in the model's dtype: leave it out"
        )
    try:
        recipe = parse_recipe(options.quantize)
        resolve_device(options.device, recipe)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.fit is not None:
        recipe = _to_fit(recipe, options)
    reads_text = recipe.linear is not None and recipe.linear.needs_calibration()
    given = [f"--calibrate {name}" for name in options.calibrate]
    if options.calibration_tokens is not None:
        given.append(f"--calibration-tokens {options.calibration_tokens}")
    if given and options.fit is None and not reads_text:
        raise UsageError(
            f"{given[0]}: the recipe's method looks at no text; leave it out, or use a method with "
            f"{', '.join(CALIBRATED)}"
        )
    form = ModelForm(
        recipe=recipe,
        dtype=options.dtype,
        max_seq_length=options.max_seq_length,
        delegate=options.delegate,
        cache_dtype=cache_dtype,
        fit=options.fit,
    )
    calibration = CalibrationRequest(
        texts=tuple(None if word == OWN else Path(word) for word in options.calibrate),
        tokens=options.calibration_tokens,
    )
    source = ModelSource(model, options.checkpoint, options.tokenizer, tuple(options.adapter))
    return ModelRequest(source, form, calibration)


def _to_fit(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Return the recipe that `--fit` starts from. Raises UsageError for one that it cannot start from."""
    try:
        parse_budget(options.fit)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.delegate != LOWBIT:
        raise UsageError(f"--fit is for --delegate {LOWBIT}, not {options.delegate}: leave it out")
    linear = recipe.linear or LinearScheme("linear:a8wx", 64, 4, True, "gptq")
    if linear.key != "linear:a8wx":
        raise UsageError(f'--fit chooses formats of linear:a8wx, not of "{linear.key}"')
    if recipe.embedding is not None and recipe.embedding.bitwidth_from_row:
        raise UsageError(
            '--fit chooses the table\'s format: leave "bitwidth_from_row" out of --quantize'
        )
    if linear.layers:
        raise UsageError('--fit chooses every layer\'s format: leave "layers" out of --quantize')
    return replace(recipe, linear=linear)
