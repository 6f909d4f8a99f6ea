"""Measure one artifact with one number of threads in a process of its own:

    python -m exporter.bench.worker '{"path": ..., "threads": ..., "context_length": ..., "cache_dtype": ...,
                                      "tests": [[KIND, N, DEPTH], ...],
                                      "repetitions": ...}'

Writes a line of JSON after each step, and `{"error": TEXT}` where it fails. No torch is loaded, so
that the memory is the model's: what the process holds at its peak, less what it held before.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from exporter.util.errors import first_line

PREFILL, DECODE = "pp", "tg"
BANDWIDTH_SECONDS = 1.0
STATUS = Path("/proc/self/status")


def main(arguments: list[str]) -> int:
    """Measure what the first argument orders; returns the exit status."""
    try:
        work(json.loads(arguments[0]))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        say(error=reason(error))
        return 1
    return 0


def work(order: dict) -> None:
    """Load, warm up, measure each test, then the memory and the read bandwidth.

    The bandwidth comes last: its buffer would count as the model's memory.
    """
    from exporter.runners import native

    before = resident_bytes("VmRSS", native.peak_rss_bytes)
    model = native.load_artifact(
        order["path"], threads=order["threads"], context_length=order["context_length"],
        cache_dtype=order["cache_dtype"],
    )  # fmt: skip
    say(threads=model.threads, isa=model.isa)
    for kind, count, depth in order["tests"]:
        measure = model.time_prefill if kind == PREFILL else model.time_decode
        measure(count if kind == PREFILL else 1, 0)  # as llama-bench warms up
        seconds = []
        for _ in range(order["repetitions"]):
            seconds.append(measure(count, depth))
            say(progress=len(seconds))
        say(seconds=seconds)
    say(memory=max(resident_bytes("VmHWM", native.peak_rss_bytes) - before, 0), before=before)
    say(bandwidth=native.read_bandwidth(model.threads, BANDWIDTH_SECONDS))


def resident_bytes(field: str, otherwise: Callable[[], int]) -> int:
    """Read a field of Linux's own account of this process, in bytes; elsewhere return `otherwise()`.

    The peak of `getrusage` begins with that of the parent process, VmHWM does not.
    """
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return otherwise()
    found = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(found[0]) * 1024 if found else otherwise()


def reason(error: Exception) -> str:
    """Say in one line what `error` is, with the type's name where a defect of ours or of a library is
    likely."""
    if isinstance(error, MemoryError):
        return ("out of memory; end other programs, use a smaller -d or --cache-dtype, or export with fewer "
                "bits")  # fmt: skip
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"


def say(**what: object) -> None:
    """Print one line of JSON for the process that started this one."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
