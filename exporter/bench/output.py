"""Write the rows of a benchmark as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from exporter.bench.bench import Row

MEBIBYTE = 1 << 20
HEADINGS = ("model", "scheme", "backend", "size, MiB", "params", "threads", "test", "t/s",
            "peak memory, MiB", "GB/s", "of the bandwidth")  # fmt: skip
NOTES = (
    "t/s: mean ± standard deviation. Peak memory: of the process that ran the row's tests, less "
    "what it held before it loaded the model; mapped weights count. GB/s: weights once a token, "
    "and the cache at the mean depth."
)


def markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a table, with notes and the bandwidth below."""
    lines = [_line(HEADINGS), _line(["---"] * 4 + ["---:"] * 2 + ["---"] + ["---:"] * 4)]
    lines += [_line(_cells(row)) for row in rows]
    rates = sorted({row.bandwidth for row in rows})
    measured = " to ".join(f"{rate / 1e9:.1f}" for rate in dict.fromkeys((rates[0], rates[-1])))
    return "\n".join([*lines, "", f"{NOTES} Read bandwidth measured beside: {measured} GB/s."])


def as_csv(rows: Sequence[Row]) -> str:
    """Write the rows as CSV, without each repetition's sample."""
    out = io.StringIO()
    records = [_record(row) for row in rows]
    writer = csv.DictWriter(out, [key for key in records[0] if key != "samples"],
                            extrasaction="ignore", lineterminator="\n")  # fmt: skip
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")


def as_json(rows: Sequence[Row]) -> str:
    """Write the rows as a JSON list."""
    return json.dumps([_record(row) for row in rows], indent=1)


WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "md": markdown,
    "csv": as_csv,
    "json": as_json,
}


def _record(row: Row) -> dict[str, object]:
    """Return a row's figures as JSON has them: bytes, bytes a second and tokens a second."""
    return {**asdict(row), "achieved": row.achieved, "share": row.share}


def _cells(row: Row) -> list[str]:
    def known(value: float | None, text: str) -> str:
        return "-" if value is None else text

    return [
        row.model,
        row.scheme,
        row.backend,
        f"{row.size_bytes / MEBIBYTE:.1f}",
        known(row.weights, f"{(row.weights or 0) / 1e6:.1f} M"),
        str(row.threads),
        row.test,
        f"{row.speed:.2f} ± {row.deviation:.2f}",
        f"{row.memory_bytes / MEBIBYTE:.0f}",
        known(row.achieved, f"{(row.achieved or 0) / 1e9:.1f}"),
        known(row.share, f"{100 * (row.share or 0):.0f} %"),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
