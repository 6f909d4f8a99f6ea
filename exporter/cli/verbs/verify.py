"""Check whether an artifact is still the model that it was exported from.

The native runner and the float32 model read the same prompts; probabilities, tokenizer, chat
format, stop tokens, metadata and every weight are compared. Exit status 1 when a check fails; the
last line says which. Limits follow from the bits of the weights (exporter/verify/limits.py).
"""

import argparse
import json
from pathlib import Path

from exporter.cli.adapter_option import add_adapter_option
from exporter.cli.command_line import EXIT_FAILURE, UsageError, number_between, positive

SUMMARY = "compare an ARTIFACT with the checkpoint it was made from"
DEFAULT_POSITIONS = 384
REPORTS = (".md", ".json", ".html")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("artifact", metavar="ARTIFACT", type=Path, help=".pte, .pt2 or .so with its .so.json")
    add("--checkpoint", metavar="PATH|MODEL",
        help="what it was exported from (default: the model that the artifact names)")  # fmt: skip
    add_adapter_option(parser)
    add("--tokenizer", type=Path, metavar="PATH", help="where the checkpoint has none beside it")
    add("--prompts", type=Path, metavar="FILE", help="UTF-8 text to read instead of the built-in")
    add("--positions", type=positive, default=DEFAULT_POSITIONS, metavar="N",
        help="most positions to compare (default: 384, which the limits are made for: far fewer "
             "are mostly beginnings, where quantized models are at their worst; of each "
             "built-in prompt at least one, so that N below 7 is 7; without a chat template, 6)")  # fmt: skip
    add("--threads", type=positive, default=0, metavar="N",
        help="default: OMP_NUM_THREADS, else one for each core")  # fmt: skip
    add("--trace", action="store_true",
        help="the error that each block adds (done by itself when a limit is missed, and "
             "where weights were rotated or scaled)")  # fmt: skip
    add("--report", type=Path, action="append", default=[], metavar="PATH",
        help="write a report, .md, .json or .html by its name; can be repeated")  # fmt: skip
    add("--json", action="store_true", help="the report as JSON on standard output, on one line")
    add("--max-kl", type=number_between(0), metavar="NATS", help="largest mean KL, instead of the table's")
    add("--min-top1", type=number_between(0, 1), metavar="SHARE", help="least top-1 agreement, 0 to 1")
    add("--min-cosine", type=number_between(0, 1), metavar="C",
        help="least mean cosine of the logits, 0 to 1")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    for path in options.report:
        if path.suffix not in REPORTS:
            raise UsageError(f"--report {path}: the name must end in {', '.join(REPORTS)}")

    from exporter.util.files import check_writable

    for path in options.report:
        check_writable(path)

    from exporter.verify.limits import GivenLimits
    from exporter.verify.report import to_dict, write_report
    from exporter.verify.verify import VerifyRequest, verify

    result = verify(VerifyRequest(
        artifact=options.artifact,
        checkpoint=options.checkpoint,
        tokenizer=options.tokenizer,
        adapters=tuple(options.adapter),
        prompts=options.prompts,
        positions=options.positions,
        threads=options.threads,
        trace=options.trace,
        limits=GivenLimits(options.max_kl, options.min_top1, options.min_cosine),
    ))  # fmt: skip
    for path in options.report:
        write_report(result, path)
    if options.json:
        print(json.dumps(to_dict(result)))
    else:
        width = max(len(check.name) for check in result.checks)
        for check in result.checks:
            limit = f"  ({check.threshold})" if check.threshold else ""
            more = f"; {check.note}" if check.note else ""
            print(f"{check.verdict:4}  {check.name:{width}}  {check.measured}{limit}{more}")
        print(result.line)
    return 0 if result.good else EXIT_FAILURE
