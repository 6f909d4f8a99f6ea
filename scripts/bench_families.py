#!/usr/bin/env python3
"""Measures each dense family, and a mixture of experts, beside Llama, at one shape with random weights, and
prints the figures asked.

    .venv/bin/python scripts/bench_families.py                      all at the 1B shape: an hour or two
    .venv/bin/python scripts/bench_families.py --shape 1b-quarter   with a quarter of its layers: half an hour
    .venv/bin/python scripts/bench_families.py --families qwen3,glm4
    .venv/bin/python scripts/bench_families.py --shape tiny --rounds 1    whether it works: minutes

A family's speed is its tokens a second times the bytes of weights that one of them reads, beside the same of
Llama: at equal bytes. Both take turns in each round, and ratios are of medians. Checkpoints and artifacts are
made one after the other and deleted: 4 GB at a time. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.artifact.reader import read_artifact  # noqa: E402
from exporter.bench.bench import Trial, bench  # noqa: E402
from exporter.bench.worker import DECODE, PREFILL  # noqa: E402
from exporter.util.files import check_writable  # noqa: E402
from scripts.bench import work  # noqa: E402
from scripts.bench.command_line import (  # noqa: E402
    ROOT,
    Parser,
    UsageError,
    exit_status,
    first_line,
    note,
    positive,
)
from scripts.bench.family_shapes import FAMILIES, MIXTURES, REFERENCE, SHAPES, config_json  # noqa: E402
from scripts.bench.provenance import commit, machine, without_paths  # noqa: E402

TESTS = (Trial(PREFILL, 512, 0), Trial(DECODE, 128, 0))
ASKED, ASKED_OF_EXPERTS = 0.95, 0.9  # of Llama's speed at equal bytes; of experts in decoding alone


@dataclass(frozen=True)
class Options:
    families: tuple[str, ...]
    shape: str
    threads: int
    rounds: int
    work: Path  # artifacts lie in a folder of their own in it
    out: Path | None


@dataclass(frozen=True)
class Exported:
    """An artifact; `layer_bytes` of its weights are read by every token of a prompt, `all_bytes` by a decoded
    one, which reads the output layer, too."""

    name: str
    path: Path
    layer_bytes: int
    all_bytes: int

    def bytes_of(self, test: Trial) -> int:
        return self.layer_bytes if test.kind == PREFILL else self.all_bytes


@dataclass(frozen=True)
class Compared:
    """Tokens a second of a family and of Llama in one test, of each round."""

    test: Trial
    own: Exported
    reference: Exported
    own_speeds: tuple[float, ...]
    reference_speeds: tuple[float, ...]

    @property
    def asked(self) -> float:
        """The least ratio; 0 where nothing is asked."""
        if self.own.name not in MIXTURES:
            return ASKED
        return ASKED_OF_EXPERTS if self.test.kind == DECODE else 0.0

    @property
    def ratio(self) -> float:
        """At equal bytes."""
        own = statistics.median(self.own_speeds) * self.own.bytes_of(self.test)
        return own / (statistics.median(self.reference_speeds) * self.reference.bytes_of(self.test))


def main(arguments: list[str]) -> int:
    options = read_options(arguments)
    work.build_runners()
    began, failures = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), {}
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="families-") as folder:
        compared = list(compare_all(options, Path(folder), failures))
    text = render(options, compared, failures, began)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
        note(f"wrote {options.out}")
    return 1 if failures else 0


def read_options(arguments: list[str]) -> Options:
    given = _parser().parse_args(arguments)
    others = [name for name in FAMILIES if name != REFERENCE]
    families = tuple(given.families.split(",")) if given.families else tuple(others)
    for name in families:
        if name not in others:
            raise UsageError(f"--families: {name!r} is unknown; use {','.join(others)}")
    if given.out is not None:
        check_writable(given.out)
    return Options(families, given.shape, given.threads, given.rounds, given.work.resolve(), given.out)


def _parser() -> Parser:
    parser = Parser(prog="bench_families.py", description=__doc__)
    add = parser.add_argument
    add("--families", metavar="NAMES", help="such as qwen3,glm4 (default: all)")
    add("--shape", choices=SHAPES, default="1b", help=f"{', '.join(SHAPES)} (default: 1b)")
    add("--threads", type=positive, default=2, metavar="N", help="default: 2")
    add("--rounds", type=positive, default=5, metavar="N", help="default: 5")
    add("--work", type=Path, default=ROOT / ".bench" / "families", metavar="DIR",
        help="default: .bench/families")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="also write the figures there")
    return parser


def compare_all(options: Options, folder: Path, failures: dict[str, str]) -> Iterator[Compared]:
    """Compares the families one after the other, in `folder`; one that fails is left out and named in
    `failures`."""
    with exported(REFERENCE, options.shape, folder) as reference:
        for name in options.families:
            try:
                with exported(name, options.shape, folder) as own:
                    yield from compare(own, reference, options)
            except (ValueError, OSError) as error:
                failures[name] = without_paths(first_line(error))
                note(f"error: {name}: {first_line(error)}")


@contextmanager
def exported(name: str, shape: str, place: Path) -> Iterator[Exported]:
    """A family's artifact of random weights in the folder `place`, for as long as it is used; the checkpoint
    goes before."""
    from scripts.bench.family_folder import write_family_folder

    folder, path = place / name, place / f"{name}.pte"
    note(f"{name}: writing random weights")
    try:
        write_family_folder(folder, config_json(name, SHAPES[shape]), lambda line: None)
        note(f"{name}: exporting")
        words = [str(folder), "--quantize", "q4", "--output-pte", str(path)]
        work.call("exporter", [sys.executable, "-m", "exporter", *words], shown=False)
        shutil.rmtree(folder)
        yield _weighed(name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        path.unlink(missing_ok=True)


def _weighed(name: str, path: Path) -> Exported:
    """Count the bytes of the packed weights that tokens are multiplied by."""
    artifact, layers, output = read_artifact(path), 0, 0
    for tensor in artifact.packed():
        if any(part.startswith("layers.") for part in tensor.names):
            layers += round(len(tensor.data) * artifact.read_share(tensor))
        elif "output" in tensor.names:
            output += len(tensor.data)
    return Exported(name, path, layers, layers + output)


def compare(own: Exported, reference: Exported, options: Options) -> Iterator[Compared]:
    """Measures both in turns, another one first in each round."""
    work.reload(own.path)
    speeds: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.rounds):
        note(f"{own.name}: round {turn + 1} of {options.rounds}")
        for one in (own, reference)[:: 1 if turn % 2 else -1]:
            for row in bench([one.path], TESTS, [options.threads], 1, lambda line: None):
                speeds.setdefault((one.name, row.test), []).append(row.speed)
    for test in TESTS:
        found = (tuple(speeds[one.name, test.name]) for one in (own, reference))
        yield Compared(test, own, reference, *found)


def render(
    options: Options, compared: Sequence[Compared], failures: dict[str, str], began: str
) -> str:
    shape = SHAPES[options.shape]
    lines = [
        "# Families beside Llama",
        "",
        f"Made by `scripts/bench_families.py` on {began}, commit {commit()}.",
        f"Machine: {machine()}; {options.threads} threads, `et_run`'s core, `q4`.",
        f"Random weights: {shape.n_layers} layers of width {shape.dim} and {shape.hidden_dim}, "
        f"{shape.n_heads} heads over {shape.n_kv_heads} of {shape.head_dim}, vocabulary {shape.vocab_size}, "
        "tied tables.",
        f"Rounds in which a family and Llama took turns: {options.rounds}. Figures are medians (least-most), "
        "ratios are of medians: tokens a second times the bytes of weights that a token is multiplied by.",
        "",
        "| family | test | weights, MB | tok/s | Llama's, MB | tok/s | "
        f"x Llama at equal bytes, asked >= {ASKED}; experts' decoding {ASKED_OF_EXPERTS} | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in compared:
        verdict = "pass" if one.ratio >= one.asked else "**miss**"
        sides = (
            f"{side.bytes_of(one.test) / 1e6:.1f} | {_speeds(speeds)}"
            for side, speeds in ((one.own, one.own_speeds), (one.reference, one.reference_speeds))
        )
        cells = (one.own.name, one.test.name, *sides, f"{one.ratio:.3f}", verdict)
        lines.append(f"| {' | '.join(cells)} |")
    if failures:
        lines += ["", "## Failed", "", *(f"- {who}: {why}" for who, why in failures.items())]
    return "\n".join(lines)


def _speeds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
