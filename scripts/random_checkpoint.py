#!/usr/bin/env python3
"""Writes a checkpoint of a known model's shape with random weights, for benchmarks and tests.

    .venv/bin/python scripts/random_checkpoint.py --like llama3.2-1b --out DIR [--gguf FILE]

DIR is a Hugging Face folder that the exporter reads, FILE the same weights for llama.cpp. The
tokenizer is a made-up byte-level one of the model's vocabulary size. The same seed gives the same
files.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.util.files import check_writable  # noqa: E402
from scripts.bench.command_line import Parser, UsageError, exit_status, note  # noqa: E402
from scripts.bench.shapes import SHAPES  # noqa: E402

DTYPES = ("bf16", "fp16", "fp32")


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.gguf is not None:
        if options.gguf.suffix != ".gguf":
            raise UsageError(f"--gguf {options.gguf} does not end in .gguf; see --help")
        check_writable(options.gguf)
    # Imported here: torch takes seconds, and a wrong command line should not.
    from scripts.bench.random_folder import random_rows, repeated_rows, write_folder
    from scripts.bench.write_gguf import write_gguf

    rows = repeated_rows if options.repeat else random_rows
    write_folder(options.out, SHAPES[options.like], options.dtype, options.seed, note, rows)
    note(f"wrote {options.out}")
    if options.gguf is not None:
        write_gguf(str(options.out), options.gguf, options.dtype, note)
        note(f"wrote {options.gguf} ({options.gguf.stat().st_size / 1e6:.0f} MB)")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="random_checkpoint.py", description=__doc__)
    add = parser.add_argument
    add("--like", required=True, choices=SHAPES, help=", ".join(SHAPES))
    add("--out", required=True, type=Path, metavar="DIR", help="the folder to make")
    add("--gguf", type=Path, metavar="FILE", help="also write a GGUF file")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--repeat", action="store_true", help="the same values in every matrix, which is quick")
    add("--dtype", choices=DTYPES, default="bf16", help="default: bf16")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
