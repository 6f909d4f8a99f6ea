"""Measure the perplexity of a text, and how far the probabilities are from the float model's.

ARTIFACT is a .pte, .pt2 or .so and runs in the native runner; MODEL is what the exporter takes, and
runs eagerly, or compiled with --compile. Windows are scored as llama-perplexity does; with --stride
they slide. --tasks runs tasks of lm-eval instead of, or after, the text.
"""

import argparse
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.runner_interface import RunLimits
from exporter.cli.command_line import EXIT_INTERRUPTED, UsageError, positive
from exporter.cli.open_model import add_runnable_options, open_model
from exporter.scoring.perplexity import (
    SMALLEST_WINDOW,
    Score,
    Window,
    progress_line,
    scores,
    text_windows,
)
from exporter.util.progress import Progress, ProgressLine, note, stage
from exporter.util.text_file import read_text

if TYPE_CHECKING:
    from exporter.artifact.runner_interface import RunnerModel
    from exporter.checkpoint.checkpoint import Checkpoint
    from exporter.scoring.divergence import Comparison

SUMMARY = "measure perplexity, divergence from the float model, and lm-eval's tasks"
DEFAULT_WINDOW = 512
LM_EVAL_VERSION = "0.4.13"  # of pyproject.toml's extra "tasks"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="ARTIFACT|MODEL",
        help=".pte, .pt2 or .so; or alias, folder, .gguf, hub id")  # fmt: skip
    add("--text", type=Path, metavar="FILE", help="UTF-8 text to score")
    add("--window", type=positive, metavar="N", default=DEFAULT_WINDOW,
        help="tokens read at once (default: 512); each window's second half is scored")  # fmt: skip
    add("--stride", type=positive, metavar="N",
        help="slide the window by N tokens and score its last N: every token once")  # fmt: skip
    add("--windows", type=positive, metavar="N", help="only the first N windows")
    add("--threads", type=positive, metavar="N",
        help="default: OMP_NUM_THREADS, else one for each core")  # fmt: skip
    add("--reference", metavar="MODEL",
        help="also compare with this checkpoint and the --adapters in float32: perplexity, KL, "
             "top-1 agreement")  # fmt: skip
    add("--tasks", metavar="NAMES", help="tasks of lm-eval, with commas between")
    add("--limit", type=positive, metavar="N", help="the first N questions of each task")
    add("--include-path", type=Path, metavar="FOLDER", help="tasks of your own (YAML)")
    add("--json", action="store_true", help="one JSON object on stdout")
    add_runnable_options(parser)


def run(options: argparse.Namespace) -> int:
    """Score the text, run the tasks and print the figures. Raises UsageError, ValueError or OSError with one
    line that names the remedy."""
    check_flags(options)
    text = None if options.text is None else read_text(options.text, "--text")
    if options.tasks is not None:
        _require_lm_eval()
    reference = None
    if options.reference is not None:
        from exporter.checkpoint.checkpoint import open_checkpoint

        reference = open_checkpoint(options.reference, progress=note, adapters=options.adapter)
    with stage(f"loading {options.model}"):
        model = open_model(options)
    report: dict[str, object] = {"model": options.model}
    status = 0
    if text is not None:
        context = RunLimits.of(model).context_length
        with stage("tokenizing"):
            windows = text_windows(model.tokenizer, text, options.window, options.stride, context)
        figures, status = _evaluate(
            model, windows[: options.windows], reference, options
        )
        report |= {"text": options.text.name, "window": options.window, "stride": options.stride}
        report |= figures
    if options.tasks is not None and status == 0:
        from exporter.scoring.lm_eval_model import run_tasks

        results = run_tasks(model, options.tasks.split(","), options.limit, options.include_path)
        report["tasks"] = results.figures
        if not options.json:
            print(results.table)
    if options.json and status == 0:
        print(json.dumps({key: _finite(value) for key, value in report.items()}))
    return status


def check_flags(options: argparse.Namespace) -> None:
    """Raise UsageError for flags that do not go together."""
    if options.compile != options.compile_prefill and options.tasks is None:
        raise UsageError(
            "a text is read in chunks, never a token at a time: give --compile and --compile-prefill "
            "together, or neither"
        )
    if options.text is None and options.tasks is None:
        raise UsageError("nothing to evaluate; give --text FILE or --tasks NAMES")
    if options.window < SMALLEST_WINDOW:
        raise UsageError(f"--window {options.window} has no targets: use {SMALLEST_WINDOW} or more")
    if options.stride is not None and options.stride >= options.window:
        raise UsageError(
            f"--stride {options.stride} is not below the --window of {options.window}: "
            "use a smaller stride"
        )
    if options.tasks is None and (options.limit or options.include_path):
        raise UsageError("--limit and --include-path are for --tasks NAMES; give it too")
    if options.text is None and (options.reference or options.stride or options.windows):
        raise UsageError("--reference, --stride and --windows are for --text FILE; give it too")


def _require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            "--tasks needs lm-eval, which is not installed: run `pip install "
            f"lm_eval=={LM_EVAL_VERSION}`"
        )


def _evaluate(
    model: "RunnerModel", windows: list[Window], reference: "Checkpoint | None", options: argparse.Namespace
) -> tuple[dict[str, object], int]:
    """Score the text; returns its figures, printed unless --json, and the exit status."""
    line, last, compared = ProgressLine(), Score(), []
    try:
        steps = _steps(model, windows, reference, compared)
        progress = Progress(len(windows))
        for last in steps:
            line.show(progress_line(last, progress))
    except KeyboardInterrupt:
        line.close()
        if not last.windows:
            raise
        note(f"interrupted after {last.windows} of {len(windows)} windows; so far:")
        for text in _lines(last, compared):
            note(f"  {text}")
        return {}, EXIT_INTERRUPTED
    finally:
        line.close()
    figures: dict[str, object] = dict(last.figures())
    if compared:
        from exporter.scoring.divergence import summarize

        figures["reference"] = {"model": options.reference, **summarize(compared).figures()}
    if not options.json:
        print("\n".join(_lines(last, compared)))
    return figures, 0


def _steps(
    model: "RunnerModel", windows: list[Window], reference: "Checkpoint | None", compared: "list[Comparison]"
) -> Iterator[Score]:
    """Yield the sums after each window; with a reference `compared` grows by the window's
    Comparison."""
    if reference is None:
        return scores(model, windows)
    with stage(f"reading the reference {reference.name}"):
        from exporter.scoring.divergence import RunnerLogits, compared_scores, reference_logits

        float_model = reference_logits(reference, max(len(w.tokens) for w in windows))
    return compared_scores(float_model, RunnerLogits(model), windows, compared.append)


def _lines(score: Score, compared: "list[Comparison]") -> list[str]:
    lines = [
        f"perplexity       {score.perplexity:.4f} ± {score.perplexity_error:.4f}",
        f"nll per token    {score.nll:.5f} ± {score.nll_error:.5f} nats",
        f"bits per byte    {score.bits_per_byte:.4f}",
        f"tokens scored    {score.targets} in {score.windows} windows",
        f"tokens a second  {score.tokens_per_second:.0f}",
    ]
    if compared:
        from exporter.scoring.divergence import summarize

        kl = summarize(compared)
        above, error = 100 * (kl.perplexity_ratio - 1), 100 * kl.perplexity_ratio_error
        lines.insert(1, f"of the reference {kl.perplexity:.4f}: {above:+.2f} ± {error:.2f} %")
        lines += [
            f"mean KL          {kl.kl_mean:.6f} ± {kl.kl_error:.6f} nats from the reference",
            f"KL percentiles   median {kl.kl_median:.6f}, 99 % {kl.kl_p99:.6f}, largest {kl.kl_max:.6f}",
            f"top-1 agreement  {100 * kl.top1_agreement:.2f} ± {100 * kl.top1_error:.2f} %",
        ]
    return lines


def _finite(value: object) -> object:
    """Replace numbers that are not finite by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
