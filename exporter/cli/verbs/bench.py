"""Measure tokens a second of prompts (pp) and of decoding (tg), peak memory and bandwidth, as in
llama-bench. Every artifact and number of threads runs in a process of its own. Comma lists give all
combinations; -p 0 or -n 0 leaves a test out, -d N measures after N cached tokens.
"""

import argparse
from pathlib import Path

from exporter.cli.command_line import UsageError, not_negative_list, one_of, positive, positive_list
from exporter.recipe.recipe import CACHE_DTYPES

OUTPUTS = ("md", "csv", "json")
SUMMARY = "measure tokens a second, peak memory and bandwidth of artifacts"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("artifacts", metavar="ARTIFACT", type=Path, nargs="+", help=".pte, .pt2 or .so")
    add("-p", "--n-prompt", metavar="N", type=not_negative_list, default=[512],
        help="tokens of a prompt (default: 512)")  # fmt: skip
    add("-n", "--n-gen", metavar="N", type=not_negative_list, default=[128],
        help="tokens decoded (default: 128)")  # fmt: skip
    add("-d", "--n-depth", metavar="N", type=not_negative_list, default=[0],
        help="tokens in the cache before (default: 0)")  # fmt: skip
    add("-t", "--threads", metavar="N", type=positive_list, default=[0],
        help="default: OMP_NUM_THREADS, else one for each core")  # fmt: skip
    add("-r", "--repetitions", metavar="N", type=positive, default=5,
        help="times each test is run (default: 5)")  # fmt: skip
    add("--cache-dtype", default="auto", type=one_of(CACHE_DTYPES), metavar="TYPE",
        help="KV cache: " + ", ".join(CACHE_DTYPES) + " (auto: the artifact's)")  # fmt: skip
    add("-o", "--output", type=one_of(OUTPUTS), default="md", metavar="FORMAT",
        help=", ".join(OUTPUTS) + " (default: md)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Measure the artifacts and print the rows. Raises UsageError, ValueError or OSError with one line that
    names the remedy."""
    from exporter.bench.bench import bench, plan
    from exporter.bench.output import WRITERS
    from exporter.util.progress import note

    tests = plan(options.n_prompt, options.n_gen, options.n_depth)
    if not tests:
        raise UsageError("-p 0 and -n 0 leave no test; give one of them a number of tokens")
    rows = []
    try:
        cache_dtype = CACHE_DTYPES[options.cache_dtype]
        measured = bench(
            options.artifacts, tests, options.threads, options.repetitions, note, cache_dtype=cache_dtype
        )
        for row in measured:
            rows.append(row)
    except KeyboardInterrupt:
        if rows:
            note(WRITERS["md"](rows))
        raise
    print(WRITERS[options.output](rows))
    return 0
