#!/usr/bin/env python3
"""Makes the table of all schemes and backends for one model: quality, speed, memory and size.

    .venv/bin/python scripts/make_table.py MODEL --text FILE --output FILE.md

Exports what is missing to --work (an artifact of the same model and options is not made again),
then measures every artifact in one run: perplexity and KL from the float32 model by `eval`,
speed, bandwidth and memory by `bench`. Writes FILE.md and FILE.json after each artifact. Leave the
machine alone meanwhile: a speed beside other work is marked.

A scheme that a backend cannot have, or that fails, is named below the table with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.checkpoint.known_models import model_name  # noqa: E402
from exporter.util.files import check_writable, written_whole  # noqa: E402
from exporter.util.text_file import read_text  # noqa: E402
from scripts.bench import measure, work  # noqa: E402
from scripts.bench.command_line import (  # noqa: E402
    ROOT,
    Parser,
    UsageError,
    exit_status,
    first_line,
    note,
    positive,
)
from scripts.bench.provenance import commit, machine, without_paths  # noqa: E402
from scripts.bench.report import QUIET_CORES  # noqa: E402
from scripts.bench.scheme_table import (  # noqa: E402
    BACKENDS,
    Line,
    Setting,
    select,
    table,
)

ATTEMPTS = 3
LIBRARIES = ("torch", "torchao", "executorch")


@dataclass(frozen=True)
class Head:
    """What stands above the table."""

    model: str
    began: str
    commit: str
    machine: str
    versions: str
    parameters: int


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    settings = _check(options)
    head = Head(
        model=model_name(options.model),
        began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=commit(),
        machine=machine(),
        versions=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        parameters=_parameters(options.model),
    )
    lines: list[Line] = []
    failures: dict[str, str] = {}
    for setting, backend in _pairs(settings, options.backends):
        title = f"{setting.name}.{backend}"
        try:
            lines.append(_measured(setting, backend, options, head))
        except (ValueError, OSError) as error:
            failures[title] = without_paths(first_line(error))
            note(f"error: {title}: {first_line(error)}")
        _write(options, head, lines, failures)
    print(_markdown(options, head, lines, failures))
    return 1 if failures else 0


def _parser() -> Parser:
    parser = Parser(prog="make_table.py", description=__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="what the exporter takes: alias, folder, .gguf, hub id")
    add("--schemes", metavar="NAMES", help="such as bf16,q4,int8 (default: all)")
    add("--row", metavar="NAME=OPTIONS", action="append", default=[],
        help="one more, by the exporter's options: 'mine=--quantize FILE'; repeatable")  # fmt: skip
    add("--backends", metavar="NAMES", default=",".join(BACKENDS), help="default: pte,pt2")
    add("--text", type=Path, metavar="FILE", help="for perplexity and KL (default: neither)")
    add("--windows", type=positive, metavar="N", default=40,
        help="of 512 tokens of the text, the second half of each scored (default: 40)")  # fmt: skip
    add("--output", type=Path, metavar="FILE.md", help="and FILE.json (default: stdout alone)")
    add("--work", type=Path, default=ROOT / ".bench" / "table", metavar="DIR",
        help="where the artifacts are kept (default: .bench/table)")  # fmt: skip
    add("--threads", type=positive, metavar="N", default=os.cpu_count(), help="default: all cores")
    add("-p", type=positive, metavar="N", default=512, help="tokens of the prompt (default: 512)")
    add("-n", type=positive, metavar="N", default=128, help="tokens decoded (default: 128)")
    add("-r", type=positive, metavar="N", default=5, help="repetitions (default: 5)")
    return parser


def _check(options: argparse.Namespace) -> tuple[Setting, ...]:
    """The settings. Raises before minutes of work are lost to a wrong flag."""
    options.backends = options.backends.split(",")
    for name in options.backends:
        if name not in BACKENDS:
            raise UsageError(f"unknown backend {name!r}; use {', '.join(BACKENDS)}")
    try:
        settings = select(options.schemes and options.schemes.split(","), options.row)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.text is not None:
        read_text(options.text, "--text")
        options.text = options.text.resolve()  # the programs run in the repository's folder
    if Path(options.model).exists():
        options.model = str(Path(options.model).resolve())
    options.work = options.work.resolve()
    if options.output is not None:
        if options.output.suffix != ".md":
            raise UsageError(f"--output {options.output}: name a .md file; a .json lies beside it")
        check_writable(options.output)
    return settings


def _parameters(model: str) -> int:
    from exporter.checkpoint.checkpoint import open_checkpoint
    from exporter.model.matrices import parameter_shapes

    return sum(map(prod, parameter_shapes(open_checkpoint(model).config).values()))


def _pairs(settings: tuple[Setting, ...], backends: list[str]) -> Iterator[tuple[Setting, str]]:
    for setting in settings:
        for backend in backends:
            if backend in setting.backends:
                yield setting, backend


def _measured(setting: Setting, backend: str, options: argparse.Namespace, head: Head) -> Line:
    path, quality = _export(setting, backend, options), None
    if options.text is not None:
        note(f"eval of {path.name}")
        quality = json.loads(_stdout(
            "eval", path, "--text", options.text, "--windows", options.windows,
            "--reference", options.model, "--threads", options.threads, "--json",
        ))  # fmt: skip
        quality["reference"]["model"] = head.model
        quality["model"] = path.name
    work.reload(path)
    rows, disturbed = _speed(path, options)
    return Line(
        setting, backend, path.stat().st_size, head.parameters, quality,
        rows.get(f"pp{options.p}"), rows.get(f"tg{options.n}"), disturbed,
    )  # fmt: skip


def _export(setting: Setting, backend: str, options: argparse.Namespace) -> Path:
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / f"{model_name(options.model)}-{setting.name}.{backend}"
    model = options.model
    return work.exported(path, setting.flags(), False, lambda: model, model=model).path


def _speed(path: Path, options: argparse.Namespace) -> tuple[dict[str, dict], bool]:
    """bench's rows by test, and whether other programs worked beside the last of some attempts."""
    for _ in range(ATTEMPTS):
        note(f"bench of {path.name}")
        done = measure.run(
            [sys.executable, "-m", "exporter", "bench", path, "-p", options.p, "-n", options.n,
             "-t", options.threads, "-r", options.r, "-o", "json"]
        )  # fmt: skip
        disturbed = done.others_cores > QUIET_CORES
        if not disturbed:
            break
        note(f"warning: {path.name}: other programs are at work; times lie")
    return {row["test"]: row for row in json.loads(done.stdout)}, disturbed


def _stdout(*words: object) -> str:
    """What a verb of the exporter prints; its progress passes through.

    Raises ValueError with its error line.
    """
    command = [sys.executable, "-m", "exporter", *map(str, words)]
    last = ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            last = line.strip() or last
            print("    " + line.rstrip(), file=sys.stderr, flush=True)
        out = process.stdout.read()
    if process.returncode != 0:
        raise ValueError(f"{words[0]} failed: {last.removeprefix('error: ')}")
    return out


def _write(
    options: argparse.Namespace, head: Head, lines: list[Line], failures: dict[str, str]
) -> None:
    """Both files, whole, as far as the measurement has come."""
    if options.output is None:
        return
    record = {
        "model": head.model, "date": head.began, "commit": head.commit, "machine": head.machine,
        "versions": head.versions, "threads": options.threads, "parameters": head.parameters,
        "text": options.text and options.text.name, "windows": options.windows,
        "rows": [line.record() for line in lines], "failures": failures,
    }  # fmt: skip
    for path, text in (
        (options.output, _markdown(options, head, lines, failures)),
        (options.output.with_suffix(".json"), json.dumps(record, indent=1)),
    ):
        with written_whole(path) as part:
            part.write_text(text + "\n", encoding="utf-8")


def _markdown(
    options: argparse.Namespace, head: Head, lines: list[Line], failures: dict[str, str]
) -> str:
    rates = sorted(row["bandwidth"] / 1e9 for line in lines if (row := line.decode))
    out = [
        f"# {head.model}: every scheme on every backend",
        "",
        f"Made by `scripts/make_table.py` on {head.began}, commit {head.commit}.",
        f"Machine: {head.machine}; {options.threads} threads. {head.versions}.",
        f"{head.parameters / 1e6:.1f} M parameters. Bits a weight are of the whole file, tokenizer "
        "and code included.",
    ]
    if options.text is not None:
        out.append(
            f"Quality: {options.windows} windows of 512 tokens of `{options.text.name}`, the "
            "second half of each scored as llama-perplexity does; KL and top token against eager "
            "float32."
        )
    out.append(
        f"Speed: a prompt of {options.p} tokens and {options.n} tokens decoded, mean ± standard "
        f"deviation of {options.r}. Peak memory: of the process, less what it held before loading."
    )
    if rates:
        span = f"{rates[0]:.1f} to {rates[-1]:.1f}"
        out.append(f"Read bandwidth measured beside each row: {span} GB/s.")
    if any(line.disturbed for line in lines):
        out.append("\\* other programs were at work: the speed says nothing.")
    out += ["", *table(lines)]
    if failures:
        out += ["", "## Not there", "", *(f"- `{who}`: {why}" for who, why in failures.items())]
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
