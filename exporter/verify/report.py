"""Write a verification as Markdown, JSON and one HTML file without anything beside it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from exporter.util.files import written_whole
from exporter.verify.inspection import scheme
from exporter.verify.positions import WORST, finite, positions, worst_positions
from exporter.verify.report_html import to_html
from exporter.verify.verify import Verification


def write_report(result: Verification, path: Path) -> None:
    """Write the report in the format that the name's end says: .md, .json or .html. Raises OSError."""
    if path.suffix == ".json":
        text = json.dumps(to_dict(result), indent=1) + "\n"
    elif path.suffix == ".html":
        text = to_html(result)
    else:
        text = "\n".join(to_markdown(result)) + "\n"
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def to_dict(result: Verification) -> dict:
    """Return everything measured, as JSON has it; numbers that are not finite are null."""
    subject, readings, greedy = result.subject, result.readings, result.greedy
    artifact, kl = subject.artifact, readings.positions.finite()
    return {
        "verified": result.good,
        "line": result.line,
        "artifact": str(artifact.path),
        "model": artifact.model_name,
        "checkpoint": subject.checkpoint,
        "scheme": scheme(artifact),
        "bits": readings.bits,
        "size": artifact.size,
        "threads": subject.threads,
        "isa": subject.isa,
        "seconds": round(subject.seconds, 2),
        "limits": vars(readings.limits),
        "checks": [vars(check) for check in result.checks],
        "kl": {
            "mean": finite(kl.mean()) if len(kl) else None,
            "median": finite(np.median(kl)) if len(kl) else None,
            "p99": finite(np.percentile(kl, 99)) if len(kl) else None,
            "max": finite(kl.max()) if len(kl) else None,
        },
        "greedy": {
            "text": greedy.text,
            "tokens": list(greedy.tokens.expected),
            "first_difference": greedy.tokens.first,
            "artifact_token": greedy.tokens.actual,
        },
        "positions": list(positions(readings)),
        "weights": [
            {key: finite(value) if isinstance(value, float) else value
             for key, value in vars(error).items()} for error in result.weights
        ],
        "trace": [
            {"name": part.name, "error": finite(part.error), "gain": finite(part.gain)}
            for part in result.parts
        ],
    }  # fmt: skip


def to_markdown(result: Verification) -> Iterator[str]:
    """Yield the lines of a report for people."""
    subject = result.subject
    artifact = subject.artifact
    yield f"# {_cell(artifact.path.name)}: {'verified' if result.good else 'NOT verified'}"
    yield from ("", _cell(result.line), "")
    yield f"- model: {_cell(str(artifact.model_name))}, {_cell(scheme(artifact))}"
    yield f"- checkpoint: {_cell(subject.checkpoint)}"
    yield f"- {artifact.size / 1e6:.1f} MB, {subject.threads} threads, {subject.isa}"
    yield f"- {len(result.readings.positions.kl)} positions in {subject.seconds:.1f} s"
    yield from ("", "| check | verdict | measured | threshold | note |", "|---|---|---|---|---|")
    for check in result.checks:
        cells = (check.name, check.verdict, check.measured, check.threshold, check.note)
        yield "| " + " | ".join(map(_cell, cells)) + " |"
    yield from ("", "## Worst positions", "", "| position | KL | after | float model says | artifact says |",
                "|---|---|---|---|---|")  # fmt: skip
    for p in worst_positions(result.readings):
        kl = "not finite" if p["kl"] is None else f"{p['kl']:.4f}"
        words = (repr(p[key]) for key in ("text", "float_text", "artifact_text"))
        cells = (p["at"], kl, *words)
        yield "| " + " | ".join(_cell(str(cell)) for cell in cells) + " |"
    if result.parts:
        yield from ("", "## Error that each part adds", "")
        yield from ("| part | error | gain |", "|---|---|---|")
        for part in sorted(result.parts, key=lambda part: -part.error):
            yield f"| {_cell(part.name)} | {part.error:.4f} | {part.gain:.3f} |"
    if result.weights:
        yield from ("", "## Weights, worst first", "", "| weight | format | error | limit | gain |",
                    "|---|---|---|---|---|")  # fmt: skip
        for e in sorted(result.weights, key=lambda e: -e.error / e.limit)[:WORST]:
            numbers = f"{e.error:.4f} | {e.limit:.4f} | {e.gain:.3f}"
            yield f"| {_cell(e.name)} | {e.format} | {numbers} |"


def _cell(text: str) -> str:
    """Escape text so that a Markdown table shows it as it is."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    for mark in "\\`*_[]<>|#":
        shown = shown.replace(mark, f"\\{mark}" if mark not in "<>" else f"&{'lg'[mark == '>']}t;")
    return shown
