#!/usr/bin/env python3
"""Measure a program of one file beside llama.cpp built static: bytes, and the time from start to first token.

    .venv/bin/python scripts/compare_static.py MODEL.pt2 MODEL.gguf [--arm] [--rounds 15]

MODEL.pt2 is exported with `--target x86-64,x86-64-static,aarch64-static`, MODEL.gguf is what llama-quantize
made of the same checkpoint. Every program is a fresh process, the files are in the page cache, both take 2
threads and the same prompt, and they take turns. The first token is there when the output is longer than the
prompt that a program repeats. --arm also runs those for 64-bit Arm, emulated. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.bench import provenance  # noqa: E402
from scripts.bench.command_line import ROOT, Parser, exit_status, note, positive  # noqa: E402
from scripts.bench.work import call, reload  # noqa: E402

PROMPT = "The capital of France is"
THREADS = "2"
LLAMA = ROOT / ".deps" / "llama.cpp-static-x86_64" / "bin"
LLAMA_ARM = ROOT / ".deps" / "llama.cpp-static-aarch64" / "bin"
EMULATOR = "qemu-aarch64-static"


@dataclass(frozen=True)
class Contender:
    """A program: its command, the text that it repeats before its first token, and its bytes in the file that
    is run and in its model's."""

    name: str
    command: tuple[str, ...]
    repeated: str
    program_bytes: int
    model_bytes: int


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    for path in (options.package, options.gguf):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: check the path")
    call("build_llama_cpp.sh", [str(ROOT / "scripts" / "build_llama_cpp.sh"), "static"])
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(options.package, options.gguf, Path(folder), options.arm)
        for path in {word for each in contenders for word in each.command if Path(word).is_file()}:
            reload(Path(path))
        seconds = _seconds(contenders, options.rounds)
        print(table(contenders, seconds, options.rounds))
    return 0


def _contenders(package: Path, gguf: Path, folder: Path, arm: bool) -> list[Contender]:
    found = [_ours("ours, x86-64", package, "linux-x86-64-musl", folder / "x86", ())]
    found += [
        _theirs("llama-simple, x86-64", LLAMA / "llama-simple", gguf, ("-n", "1", PROMPT), PROMPT, ()),
        _theirs("llama-completion, x86-64", LLAMA / "llama-completion", gguf, (
            "-p", PROMPT, "-n", "1", "-t", THREADS, "-c", "512", "--temp", "0", "--ignore-eos", "-no-cnv",
            "--no-display-prompt", "--simple-io", "--no-warmup", "-fit", "off"), "", ()),
    ]  # fmt: skip
    if arm:
        found += [
            _ours("ours, aarch64", package, "linux-aarch64-musl", folder / "arm", (EMULATOR,)),
            _theirs("llama-simple, aarch64", LLAMA_ARM / "llama-simple", gguf, ("-n", "1", PROMPT), PROMPT,
                    (EMULATOR,)),
        ]  # fmt: skip
    return found


def _ours(name: str, package: Path, target: str, output: Path, before: tuple[str, ...]) -> Contender:
    note(f"packing for {target}")
    words = ["pack", str(package), "--no-verify", "--single-file", "--target", target, "-o", str(output)]
    call("exporter pack", [sys.executable, "-m", "exporter", *words], shown=False)
    # The weights are the model, all else the program: tokenizer, metadata and licences too.
    with zipfile.ZipFile(output) as archive:
        weights = max(info.file_size for info in archive.infolist())
    words = (*before, str(output), "-i", PROMPT, "-t", "0", "-n", "1", "--ignore-eos", "--threads", THREADS)
    return Contender(name, words, PROMPT, output.stat().st_size - weights, weights)


def _theirs(
    name: str, program: Path, gguf: Path, words: tuple[str, ...], repeated: str, before: tuple[str, ...]
) -> Contender:
    command = (*before, str(program), "-m", str(gguf), *words)
    return Contender(name, command, repeated, program.stat().st_size, gguf.stat().st_size)


def _seconds(contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """The seconds of each contender, in rounds in which they take turns; the first round is left out."""
    found: dict[str, list[float]] = {each.name: [] for each in contenders}
    for number in range(rounds + 1):
        for each in contenders:
            seconds = first_token_seconds(each)
            if number > 0:
                found[each.name].append(seconds)
        note(f"round {number} of {rounds}")
    return found


def first_token_seconds(contender: Contender) -> float:
    """Run a contender and return the seconds until its output is longer than what it repeats.

    Raises ValueError where it fails or says nothing more.
    """
    start = time.monotonic()
    with subprocess.Popen(
        contender.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        output = b""
        seconds = None
        while chunk := process.stdout.read1(1 << 16):
            output += chunk
            if seconds is None and len(output.strip()) > len(contender.repeated):
                seconds = time.monotonic() - start
    if process.returncode != 0 or seconds is None:
        raise ValueError(f"{contender.name} ended with status {process.returncode} and said {output[:200]!r}")
    return seconds


def table(contenders: Sequence[Contender], seconds: dict[str, list[float]], rounds: int) -> str:
    """Return the figures as Markdown; ratios are to ours of the same machine."""
    lines = [
        f"Machine: {provenance.machine()}; commit {provenance.commit()}.",
        f"{rounds} rounds, medians (least-most).",
        "",
        "| program | program, MB | with the model, MB | first token, s | of llama.cpp's |",
        "|---" * 5 + "|",
    ]
    ours: dict[str, float] = {}
    for each in contenders:
        kind, machine = each.name.split(", ")
        values = seconds[each.name]
        median = statistics.median(values)
        if kind == "ours":
            ours[machine] = median
        lines.append(
            f"| {each.name} | {each.program_bytes / 1e6:.2f} | "
            f"{(each.program_bytes + each.model_bytes) / 1e6:.1f} | "
            f"{median:.3f} ({min(values):.3f}-{max(values):.3f}) | "
            f"{'-' if kind == 'ours' else f'{ours[machine] / median:.2f}'} |"
        )
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser(prog="compare_static.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("package", metavar="MODEL.pt2", type=Path)
    parser.add_argument("gguf", metavar="MODEL.gguf", type=Path)
    parser.add_argument("--rounds", metavar="N", type=positive, default=15, help="default: 15")
    parser.add_argument("--arm", action="store_true", help="64-bit Arm too, emulated")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
