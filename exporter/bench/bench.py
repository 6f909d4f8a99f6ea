"""Measure speed and memory of artifacts as llama-bench does: the tests, the processes, the rows."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exporter.artifact.contents import Artifact
from exporter.artifact.memory import position_bytes
from exporter.artifact.reader import read_artifact
from exporter.bench.worker import DECODE, PREFILL
from exporter.recipe.recipe import Recipe, parse_recipe
from exporter.recipe.schemes import LOWBIT
from exporter.util.progress import Report

READY = ("q1", "q2", "q3", "q4", "q5", "q6", "q8", "ternary")
WORKER = (sys.executable, "-m", "exporter.bench.worker")


@dataclass(frozen=True)
class Trial:
    """`count` tokens at once (PREFILL) or one by one (DECODE), after `depth` that are cached."""

    kind: str
    count: int
    depth: int

    @property
    def positions(self) -> int:
        return self.count + self.depth

    @property
    def name(self) -> str:
        return f"{self.kind}{self.count}" + (f" @ d{self.depth}" if self.depth else "")


@dataclass(frozen=True)
class Loading:
    """How an artifact is loaded: threads (0: as many as the runner chooses), and what of the cache is chosen
    (None: the artifact's own)."""

    threads: int
    context_length: int | None = None
    cache_dtype: str | None = None


@dataclass(frozen=True)
class Measured:
    """What the process of one artifact and number of threads found; bytes and bytes a second."""

    threads: int
    isa: str
    seconds: tuple[tuple[float, ...], ...]  # of each test, of each repetition
    memory: int
    bandwidth: float


@dataclass(frozen=True)
class Row:
    """One test's figures. Speeds are tokens a second; None where unknown or without meaning."""

    file: str
    model: str
    scheme: str
    backend: str
    isa: str
    size_bytes: int
    weights: int | None
    threads: int
    test: str
    speed: float
    deviation: float
    samples: tuple[float, ...]
    memory_bytes: int
    bytes_a_token: float | None  # read: weights once, and the cache at the mean depth
    bandwidth: float  # that the memory gives, bytes a second

    @property
    def achieved(self) -> float | None:
        """The bytes a second that the decoded tokens read; None where unknown."""
        return None if self.bytes_a_token is None else self.bytes_a_token * self.speed

    @property
    def share(self) -> float | None:
        return None if self.achieved is None else self.achieved / self.bandwidth


def plan(prompts: Sequence[int], steps: Sequence[int], depths: Sequence[int]) -> list[Trial]:
    """List the tests of all combinations; a count of 0 leaves its test out."""
    return [
        Trial(kind, count, depth)
        for depth in depths
        for kind, counts in ((PREFILL, prompts), (DECODE, steps))
        for count in counts
        if count
    ]


def check_fits(path: Path, artifact: Artifact, tests: Sequence[Trial]) -> None:
    """Raise ValueError for a test that needs more positions than the artifact's context has."""
    context = artifact.number("longest_context") or artifact.context_length
    for test in tests:
        if context is not None and test.positions > context:
            again = "" if "longest_context" in artifact.metadata else (
                f", or export with --max-seq-length {test.positions}"
            )
            raise ValueError(
                f"{test.name} needs {test.positions} positions and the context of {path} has {context}: "
                f"use smaller -p, -n or -d{again}"
            )


def context_of(artifact: Artifact, tests: Sequence[Trial]) -> int | None:
    """Return the context that the tests need and at least the artifact's, where it is the program's to
    choose."""
    if "longest_context" not in artifact.metadata:
        return None
    return max([artifact.context_length or 1, *(test.positions for test in tests)])


def bench(
    paths: Sequence[Path],
    tests: Sequence[Trial],
    threads: Sequence[int],
    repetitions: int,
    report: Report,
    worker: Sequence[str] = WORKER,
    cache_dtype: str | None = None,
) -> Iterator[Row]:
    """Measure the artifacts and yield the rows, a process for each artifact and number of threads (0: as many
    as the runner chooses). `cache_dtype` None is the artifact's own; `report` takes a line of progress.

    Raises ValueError or OSError for files that are missing or damaged and tests that do not fit,
    before anything is measured; and ValueError where a process fails.
    """
    artifacts = [(path, read_artifact(path)) for path in paths]
    for path, artifact in artifacts:
        check_fits(path, artifact, tests)
    for path, artifact in artifacts:
        for count in threads:
            context = context_of(artifact, tests)
            how = Loading(count, context, cache_dtype)
            measured = measure(path, tests, how, repetitions, report, worker)
            for test, seconds in zip(tests, measured.seconds, strict=True):
                yield row(path, artifact, test, seconds, measured, cache_dtype)


def measure(
    path: Path,
    tests: Sequence[Trial],
    how: Loading,
    repetitions: int,
    report: Report,
    worker: Sequence[str] = WORKER,
) -> Measured:
    """Measure the tests of one artifact in a process of its own. Raises ValueError with the process's last
    words where it fails."""
    order = {
        "path": str(path),
        **asdict(how),
        "tests": [[test.kind, test.count, test.depth] for test in tests],
        "repetitions": repetitions,
    }
    found: dict[str, object] = {}
    seconds: list[tuple[float, ...]] = []
    with subprocess.Popen(
        [*worker, json.dumps(order)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in process.stdout:
                said = json.loads(line)
                if "seconds" in said:
                    seconds.append(tuple(said["seconds"]))
                elif "progress" in said:
                    title = f"{path.name}: test {len(seconds) + 1} of {len(tests)}"
                    report(f"{title}, {tests[len(seconds)].name}: "
                           f"{said['progress']} of {repetitions}")  # fmt: skip
                else:
                    found |= said
        except BaseException:
            process.kill()
            raise
    if "error" in found:
        raise ValueError(f"{path}: {found['error']}")
    if process.returncode or "bandwidth" not in found:
        raise ValueError(f"{path}: its process ended early, with status {process.returncode}")
    return Measured(
        found["threads"], found["isa"], tuple(seconds), found["memory"], found["bandwidth"]
    )


def row(
    path: Path, artifact: Artifact, test: Trial, seconds: Sequence[float], measured: Measured,
    cache_dtype: str | None = None,
) -> Row:  # fmt: skip
    """Make the row of one test from the `seconds` of its repetitions."""
    samples = tuple(test.count / one for one in seconds)
    return Row(
        file=path.name,
        model=artifact.model_name or path.stem,
        scheme=scheme_name(artifact.metadata),
        backend=backend_name(artifact.metadata),
        isa=measured.isa,
        size_bytes=artifact.size,
        weights=artifact.weight_count(),
        threads=measured.threads,
        test=test.name + (f", {cache_dtype} cache" if cache_dtype else ""),
        speed=statistics.mean(samples),
        deviation=statistics.stdev(samples) if len(samples) > 1 else 0.0,
        samples=samples,
        memory_bytes=measured.memory,
        bytes_a_token=bytes_a_token(artifact, test, cache_dtype),
        bandwidth=measured.bandwidth,
    )


def bytes_a_token(artifact: Artifact, test: Trial, cache_dtype: str | None = None) -> float | None:
    """Return the bytes that a decoded token reads: each linear layer's weights once, and the cache up to the
    mean position. None for prompts, where weights serve many tokens, and where sizes are not known."""
    weights = artifact.read_bytes()
    if test.kind != DECODE or weights is None:
        return None
    return weights + (test.depth + test.count / 2) * (position_bytes(artifact, cache_dtype) or 0)


def scheme_name(metadata: Mapping[str, str]) -> str:
    """Name the scheme: `q4`, `linear:a8w4dq, embedding`, or the dtype where nothing is quantized."""
    text = metadata.get("quantization", "{}")
    try:
        recipe = parse_recipe(text)
    except ValueError:  # of another version
        return text
    if not recipe.is_quantized():
        return metadata.get("dtype", "")
    ready = [name for name in READY if parse_recipe(name).schemes() == recipe.schemes()]
    return ready[0] if ready else _described(recipe)


def _described(recipe: Recipe) -> str:
    words = []
    for scheme in recipe.schemes():
        group = f" g{scheme.groupsize}" if scheme.groupsize else " channelwise"
        widths = [scheme.bitwidth, *(bits for _, bits in scheme.bitwidth_from_row)]
        bits = str(widths[0]) if len(widths) == 1 else f"{max(widths)} to {min(widths)}"
        words.append(f"{scheme.key} {bits} bits{group}")
    return ", ".join(reversed(words))


def backend_name(metadata: Mapping[str, str]) -> str:
    """Name the backend, and the delegate where it is not our own."""
    backend, delegate = metadata.get("backend", ""), metadata.get("delegate", LOWBIT)
    return backend if delegate == LOWBIT else f"{backend}, {delegate}"
