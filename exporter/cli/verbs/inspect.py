"""Say what an artifact holds: metadata, sizes by part, bits a weight, operators, CPUs, memory.

Of two artifacts, say only what differs between them. Nothing is run.
"""

import argparse
import json
from pathlib import Path

from exporter.cli.command_line import one_of, positive
from exporter.recipe.recipe import CACHE_DTYPES

SUMMARY = "say what an ARTIFACT holds, or how two differ"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("artifact", metavar="ARTIFACT", type=Path, help=".pte, .pt2 or .so with its .so.json")
    add("other", metavar="B", type=Path, nargs="?", help="print what differs in B instead")
    add("--context", type=positive, metavar="N",
        help="memory at N positions (default: the artifact's context)")  # fmt: skip
    add("--cache-dtype", default="auto", type=one_of(CACHE_DTYPES), metavar="TYPE",
        help="memory with that cache: " + ", ".join(CACHE_DTYPES) + " (auto: the artifact's)")  # fmt: skip
    add("--sessions", type=positive, default=1, metavar="N", help="memory of N sessions (default: 1)")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(options: argparse.Namespace) -> int:
    from exporter.artifact.memory import StateChoice, estimate
    from exporter.artifact.reader import read_artifact
    from exporter.verify.inspection import differences, facts, text

    artifacts = [read_artifact(path) for path in (options.artifact, options.other) if path]
    choice = StateChoice(options.context, CACHE_DTYPES[options.cache_dtype], options.sessions)
    read = [(artifact, estimate(artifact, choice)) for artifact in artifacts]
    if options.other is None:
        if options.json:
            print(json.dumps(facts(*read[0])))
        else:
            print("\n".join(text(*read[0])))
        return 0
    found = differences(*read)
    if options.json:
        names = {"a": str(options.artifact), "b": str(options.other)}
        print(json.dumps({**names, "differences": found}))
    elif not found:
        print("no difference but the files' names")
    else:
        for key, (a, b) in found.items():
            print(f"{key}: {_said(a)}" + (f" -> {_said(b)}" if b != "" else ""))
    return 0


def _said(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
