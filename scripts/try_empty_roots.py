#!/usr/bin/env python3
"""Run SmolLM2 in empty roots: bundles beside the C and C++ libraries and a shell, programs of one file alone.

    .venv/bin/python scripts/try_empty_roots.py [--model smollm2] [--artifacts FOLDER]

As root. Exports the model with `q4`, packs it for every target whose runners are built here, and runs in each
root `-i "The capital of France is" -t 0` and `--self-test`; those for 64-bit Arm are emulated. FOLDER may
hold model.pte and model.pt2 of an earlier run, and is where they are left. Prints a line for each root, and
ends with status 1 where a text differs from the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import empty_root  # noqa: E402

from exporter.pack.targets import build_folder, find_target  # noqa: E402
from scripts.bench.command_line import Parser, exit_status, note  # noqa: E402
from scripts.bench.work import call  # noqa: E402

RUN = ("-i", "The capital of France is", "-t", "0", "-n", "24")
EXPORTED = "x86-64,x86-64-static,aarch64,aarch64-static"
# Of each root the artifact, the target and whether it is a program of one file.
ROOTS = (
    ("model.pte", "linux-x86-64", False),
    ("model.pt2", "linux-x86-64", False),
    ("model.pt2", "linux-x86-64-musl", True),
    ("model.pte", "linux-aarch64", False),
    ("model.pt2", "linux-aarch64", False),
    ("model.pt2", "linux-aarch64-musl", True),
)


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        raise ValueError("only root may change the root folder; run this as root")
    texts = set()
    with tempfile.TemporaryDirectory() as name:
        artifacts = options.artifacts or Path(name)
        artifacts.mkdir(parents=True, exist_ok=True)
        _export(options.model, artifacts)
        for number, (artifact, target, single) in enumerate(ROOTS):
            if not _is_built(target, single):
                print(f"{artifact} for {target}: not built here; docs/shipping.md says how")
                continue
            texts.add(_run(artifacts / artifact, target, single, Path(name) / f"root{number}"))
    if not texts:
        raise ValueError("no runners are built; run scripts/build_native.sh")
    if len(texts) > 1:
        raise ValueError(f"texts differ: {', '.join(map(repr, sorted(texts)))}")
    return 0


def _export(model: str, folder: Path) -> None:
    if all((folder / name).is_file() for name in ("model.pte", "model.pt2")):
        return
    note(f"exporting {model}")
    words = ["-m", "exporter", model, "--quantize", "q4", "--target", EXPORTED]
    outputs = ["--output-pte", folder / "model.pte", "--output-aoti-package", folder / "model.pt2"]
    call("exporter", [sys.executable, *words, *map(str, outputs)], shown=False)


def _is_built(target: str, single: bool) -> bool:
    found = find_target(target)
    preset = found.single_file if single else found.preset
    emulated = found.machine == "x86_64" or empty_root.EMULATOR is not None
    return emulated and (ROOT / build_folder(preset) / "CMakeCache.txt").is_file()


def _run(artifact: Path, target: str, single: bool, root: Path) -> bytes:
    """Pack an artifact, run it in the folder `root` and return its text. Raises ValueError where it fails."""
    machine = find_target(target).machine
    words = ["pack", str(artifact), "--no-verify", "--target", target]
    output = root / "m" if single else root
    root.parent.mkdir(exist_ok=True)
    if single:
        root.mkdir()
        words.append("--single-file")
    start = time.monotonic()
    call("exporter pack", [sys.executable, "-m", "exporter", *words, "-o", str(output)], shown=False)
    packed = time.monotonic() - start
    if single:
        before = ()
        if machine != "x86_64":
            shutil.copy(empty_root.EMULATOR, root / "emulator")
            before = ("/emulator",)
        ran = [empty_root.run_in(root, *before, "/m", *flags) for flags in (RUN, ("--self-test",))]
    else:
        empty_root.fill_root(root, machine)
        ran = [empty_root.run_script(root, machine, *flags) for flags in (RUN, ("--self-test",))]
    for done in ran:
        _check(done, artifact.name, target)
    text, report = (done.stdout for done in ran)
    first = text.decode().replace("\n", " ")[:60]
    verdict = report.decode().splitlines()[0].rpartition(": ")[2]
    kind = "a program of one file" if single else "a bundle"
    print(f"{artifact.name} for {target}, {kind}, packed in {packed:.1f} s: {verdict}; {first}", flush=True)
    shutil.rmtree(root)
    return text


def _check(done: subprocess.CompletedProcess[bytes], name: str, target: str) -> None:
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ValueError(f"{name} for {target} ended with status {done.returncode}: {said[-1]}")


def _parser() -> Parser:
    parser = Parser(prog="try_empty_roots.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", metavar="MODEL", default="smollm2", help="default: smollm2")
    parser.add_argument("--artifacts", metavar="FOLDER", type=Path, help="default: a temporary one")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
