"""The figures asked, and the Markdown that says which are reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from exporter.model.matrices import parameter_shapes
from scripts.bench.contenders import (
    BUSY,
    CONTENDERS,
    DECODE,
    DECODE_TOKENS,
    DEEP,
    DEPTH,
    DIVERGENCE,
    DOT_PEAK,
    MODELS,
    PREFILL,
    PREFILL_TOKENS,
    Contender,
)

MEBIBYTE = 1 << 20
BANDWIDTH = "bandwidth"  # a metric of a model's runs, of no contender
NOBODY = ""
QUIET_CORES = 0.1
TIMELESS = ("file", "peak_rss", DIVERGENCE)
MEGABYTES, SECONDS = "MB", "s"
# metric -> heading, factor to the unit, digits, unit
METRICS = {
    "file": ("file", 1e-6, 1, MEGABYTES),
    "export": ("export", 1, 1, SECONDS),
    PREFILL: (f"prefill {PREFILL_TOKENS}", 1, 1, "tok/s"),
    DECODE: ("decode", 1, 1, "tok/s"),
    DEEP: (f"decode at {DEPTH}", 1, 1, "tok/s"),
    "peak_rss": ("peak memory", 1e-6, 0, MEGABYTES),
    "first_token": ("first token", 1, 3, SECONDS),
    "first_token_best": ("first token, trimmed", 1, 3, SECONDS),
    DIVERGENCE: ("mean KL", 1, 5, "nats"),
    DOT_PEAK: ("linear layers of a prompt, of the dot-product peak", 100, 0, "%"),
}
Q4_BYTES_A_WEIGHT = (4 + (16 + 4) / 32) / 8  # groups of 32 with a 16-bit scale and a 4-bit zero


@dataclass(frozen=True)
class Sample:
    model: str
    contender: str
    metric: str
    value: float


@dataclass(frozen=True)
class Results:
    samples: tuple[Sample, ...]

    def values(self, model: str, contender: str, metric: str) -> list[float]:
        wanted = (model, contender, metric)
        return [s.value for s in self.samples if (s.model, s.contender, s.metric) == wanted]

    def median(self, model: str, contender: str, metric: str) -> float:
        """NaN where nothing was measured; it carries through every ratio."""
        values = self.values(model, contender, metric)
        return statistics.median(values) if values else math.nan


# What is compared with the limit, of a model's contender.
Value = Callable[[Results, str, str], float]


@dataclass(frozen=True)
class Row:
    """A figure asked of some contenders: `value` of the metric, at least or at most `limit`."""

    figure: str
    model: str
    metric: str
    contenders: tuple[str, ...]
    value: Value
    limit: float
    at_least: bool
    unit: str
    peer: str = NOBODY

    def asked(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}".rstrip()

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def beside(metric: str, peer: str) -> Value:
    return lambda results, model, contender: (
        results.median(model, contender, metric) / results.median(model, peer, metric)
    )


def plain(metric: str) -> Value:
    factor = METRICS[metric][1]
    return lambda results, model, contender: results.median(model, contender, metric) * factor


def share_of_bandwidth(results: Results, model: str, contender: str) -> float:
    """Bytes of 4-bit weights read a second, of what the memory gives; nothing else is counted."""
    shapes = parameter_shapes(MODELS[model].config).values()
    weights = sum(math.prod(shape) for shape in shapes if len(shape) == 2)
    read = weights * Q4_BYTES_A_WEIGHT * results.median(model, contender, DECODE)
    return read / results.median(model, NOBODY, BANDWIDTH)


def in_proportion_to_q4(results: Results, model: str, contender: str) -> float:
    """How much faster than 4 bits, of how much smaller the file is."""
    q4 = f"q4{contender[contender.index('.'):]}"
    faster = beside(DECODE, q4)(results, model, contender)
    return faster * beside("file", q4)(results, model, contender)


def memory_above_file(results: Results, model: str, contender: str) -> float:
    median = results.median
    known = median(model, contender, "file") + median(model, contender, "used_cache")
    return (median(model, contender, "peak_rss") - known) / MEBIBYTE


SMOL, ONE_B = "smollm2", "llama3.2-1b"
Q4, Q4_PTE, Q4_PT2 = ("q4.pte", "q4.pt2"), ("q4.pte",), ("q4.pt2",)
BF16 = ("bf16.pte", "bf16.pt2")
TERNARY_BOTH = ("ternary.pte", "ternary.pt2")
TERNARY_BITS = "decode, 2 bits in groups of 256, tables too (not the recipe `ternary`)"
LLAMA_Q4, LLAMA_BF16, XNNPACK = "llama-q4_0", "llama-bf16", "xnnpack.pte"
LLAMA_TQ2 = "llama-tq2_0"
NO_AMX = "llama-q4_0-noamx"
OF_Q4, OF_BF16 = "× llama.cpp Q4_0", "× llama.cpp BF16"
OF_NO_AMX = "× llama.cpp Q4_0 without AMX"


def _speed(
    figure: str, model: str, metric: str, contenders: tuple[str, ...], peer: str, limit: float,
    unit: str,
) -> Row:  # fmt: skip
    return Row(figure, model, metric, contenders, beside(metric, peer), limit, True, unit, peer)


ON_ET, ON_TORCH = ("q4.pte", "× et_run"), ("q4.pt2-torch", "× aoti_run on libtorch")


def _lean_host(model: str) -> tuple[Row, ...]:
    """What is asked of aoti_run beside et_run and beside itself on libtorch."""
    return tuple(
        _speed(figure, model, metric, Q4_PT2, peer, 1.0, unit)
        for figure, metric in (("decode, `q4`", DECODE), ("prefill 512, `q4`", PREFILL))
        for peer, unit in (ON_ET, ON_TORCH)
    )


def _start(peer: str, limit: float, unit: str) -> Row:
    value = beside("first_token", peer)
    return Row("start to first token, `q4`", ONE_B, "first_token", Q4_PT2, value, limit, False,
               unit, peer)  # fmt: skip


ROWS = (
    *_lean_host(ONE_B),
    *_lean_host(SMOL),
    _start(ON_ET[0], 1.1, ON_ET[1]),
    _start(ON_TORCH[0], 0.1, ON_TORCH[1]),
    _speed("decode, `q4`", ONE_B, DECODE, Q4, LLAMA_Q4, 1.0, OF_Q4),
    _speed("decode, `q4`", ONE_B, DECODE, Q4, NO_AMX, 1.0, OF_NO_AMX),
    Row("decode, `q4`", ONE_B, DECODE, Q4, share_of_bandwidth, 0.9, True, "of the read bandwidth"),
    Row("decode, `q4`, AVX2 forced", ONE_B, DECODE, ("q4.pte-avx2",), share_of_bandwidth, 0.85,
        True, "of the read bandwidth"),
    _speed("decode, `q4`", SMOL, DECODE, Q4, LLAMA_Q4, 1.3, OF_Q4),
    _speed("decode, `q4`", SMOL, DECODE, Q4, NO_AMX, 1.3, OF_NO_AMX),
    _speed("decode, `q4`", SMOL, DECODE, Q4, XNNPACK, 8.0, "× stock XNNPACK"),
    _speed("prefill 512, `q4`", ONE_B, PREFILL, Q4, LLAMA_Q4, 2.0, OF_Q4),
    _speed("prefill 512, `q4`", ONE_B, PREFILL, Q4, NO_AMX, 2.0, OF_NO_AMX),
    Row("linear layers of a prompt of 512", ONE_B, DOT_PEAK, Q4_PTE, plain(DOT_PEAK), 60, True,
        "% of the dot-product peak"),
    _speed("prefill 512, `q4`", SMOL, PREFILL, Q4, LLAMA_Q4, 1.4, OF_Q4),
    _speed("prefill 512, `q4`", SMOL, PREFILL, Q4, NO_AMX, 1.4, OF_NO_AMX),
    _speed(f"decode at {DEPTH}, `q4`", ONE_B, DEEP, Q4, LLAMA_Q4, 1.6, OF_Q4),
    Row("decode, `q3`", ONE_B, DECODE, ("q3.pte", "q3.pt2"), in_proportion_to_q4, 0.85, True,
        "of `q4`'s speed in proportion to the bytes"),
    Row("decode, `q2`", ONE_B, DECODE, ("q2.pte", "q2.pt2"), in_proportion_to_q4, 0.85, True,
        "of `q4`'s speed in proportion to the bytes"),
    Row(TERNARY_BITS, ONE_B, DECODE, TERNARY_BOTH, in_proportion_to_q4, 0.8, True,
        "of `q4`'s speed in proportion to the bytes"),
    Row("decode, `q1`", ONE_B, DECODE, ("q1.pte", "q1.pt2"), in_proportion_to_q4, 0.8, True,
        "of `q4`'s speed in proportion to the bytes"),
    _speed(TERNARY_BITS, ONE_B, DECODE, TERNARY_BOTH, LLAMA_TQ2, 1.0, "× llama.cpp TQ2_0"),
    _speed("decode, unquantized bf16", SMOL, DECODE, BF16, LLAMA_BF16, 1.0, OF_BF16),
    _speed("prefill 512, unquantized bf16", SMOL, PREFILL, BF16, LLAMA_BF16, 1.0, OF_BF16),
    Row("peak memory, `q4`", ONE_B, "peak_rss", Q4, memory_above_file, 48, False,
        "MiB above file and used cache"),
    Row("peak memory, `q4`", ONE_B, "peak_rss", Q4_PTE, beside("peak_rss", LLAMA_Q4), 0.55, False,
        OF_Q4),
    Row("start to first token, `q4`", ONE_B, "first_token", Q4, beside("first_token", LLAMA_Q4),
        0.4, False, OF_Q4),
    Row("export, `q4`", ONE_B, "export", Q4_PTE, plain("export"), 60, False, SECONDS),
    Row("export, `q4`", SMOL, "export", Q4_PTE, plain("export"), 20, False, SECONDS),
    Row("file, `q4`", SMOL, "file", Q4_PTE, plain("file"), 90, False, MEGABYTES),
    Row("mean KL from float32, `q8`", SMOL, DIVERGENCE, ("q8.pte", "q8.pt2"), plain(DIVERGENCE),
        0.005, False, "nats"),
)  # fmt: skip


def asked_table(results: Results, contenders: Sequence[Contender]) -> list[str]:
    """A line for each figure and contender; what could not be measured says so."""
    lines = [
        "| figure | model | artifact | asked | measured | against what is asked | |",
        "|---|---|---|---|---|---|---|",
    ]
    chosen = {(contender.model, contender.name) for contender in contenders}
    known = {NOBODY, *(contender.name for contender in CONTENDERS)}  # on this machine
    for row in ROWS:
        if row.peer not in known:
            continue
        for contender in row.contenders:
            if (row.model, contender) not in chosen:
                continue
            measured = cell(row.metric, [results.median(row.model, contender, row.metric)])
            value = row.value(results, row.model, contender)
            compared, verdict = "-", "not measured"
            if not math.isnan(value):
                compared, verdict = f"{value:.3g}", "pass" if row.holds(value) else "**miss**"
                if row.metric not in TIMELESS and disturbed(results, row.model):
                    verdict = "disturbed"
            where = f"{MODELS[row.model].label} | `{contender}`"
            lines.append(
                f"| {row.figure} | {where} | {row.asked()} | {measured} | {compared} | {verdict} |"
            )
    return lines


def measured_table(results: Results, contenders: Sequence[Contender]) -> list[str]:
    """The contenders' medians, with the least and the most where there are several."""
    headings = [*(f"{heading}, {unit}" for heading, _, _, unit in METRICS.values()), "decode, GB/s"]
    lines = [
        f"| model | contender | {' | '.join(headings)} |",
        "|---|---|" + "---|" * len(headings),
    ]
    for contender in contenders:
        key = (contender.model, contender.name)
        cells = [cell(metric, results.values(*key, metric), unit=False) for metric in METRICS]
        read = results.median(*key, "file") * results.median(*key, DECODE) / 1e9
        cells.append("-" if math.isnan(read) else f"{read:.1f}")
        label = MODELS[contender.model].label
        lines.append(f"| {label} | `{contender.name}` | {' | '.join(cells)} |")
    return lines


def circumstances(results: Results, models: Sequence[str]) -> list[str]:
    """The bandwidth of the memory in the rounds, and what other programs did meanwhile."""
    lines = []
    for model in models:
        values = [value / 1e9 for value in results.values(model, NOBODY, BANDWIDTH)]
        if values:
            lines.append(
                f"Read bandwidth beside the runs of {MODELS[model].label}: "
                f"{statistics.median(values):.1f} GB/s ({min(values):.1f}-{max(values):.1f})."
            )
        if disturbed(results, model):
            busy = max(_busy(results, model))
            lines.append(
                f"**Other programs kept up to {busy:.1f} cores busy beside the runs of "
                f"{MODELS[model].label}: the times say nothing, and no verdict is given.**"
            )
    return lines


def disturbed(results: Results, model: str) -> bool:
    """Whether other programs took part: some contenders then lose a little and some nearly all."""
    return any(value > QUIET_CORES for value in _busy(results, model))


def _busy(results: Results, model: str) -> list[float]:
    return [s.value for s in results.samples if (s.model, s.metric) == (model, BUSY)]


def cell(metric: str, values: Iterable[float], unit: bool = True) -> str:
    _, factor, digits, name = METRICS[metric]
    scaled = [value * factor for value in values if not math.isnan(value)]
    if not scaled:
        return "-"
    text = f"{statistics.median(scaled):.{digits}f}"
    if len(scaled) > 1 and min(scaled) != max(scaled):
        text += f" ({min(scaled):.{digits}f}-{max(scaled):.{digits}f})"
    return f"{text} {name}" if unit else text


def notes(models: Sequence[str]) -> list[str]:
    """What a reader needs to judge the figures."""
    pure = [MODELS[model].label for model in models if "--pure" in MODELS[model].quantize_options]
    lines = [
        f"- Prefill: {PREFILL_TOKENS} random tokens. Ours are whole processes without a warm-up "
        "run, page faults included; llama-bench warms up.",
        f"- Decode: {DECODE_TOKENS} tokens after a prompt of one token (llama-bench: of none).",
        "- Decode, GB/s: the file's bytes, of which nearly all are weights, times tokens a second.",
        "- First token and peak memory: a process with a short prompt, files in the page cache, "
        "to its first byte of text. llama-completion as it comes; trimmed: without its warm-up run "
        "and `-fit`.",
        "- Share of the bandwidth: 4.625 bits a weight, each matrix once a token. The "
        "dot-product peak is of the instruction that multiplies 64 bytes (`vpdpbusd` and the like), "
        "measured beside the layers by `cmake-out/kernel_bench`; AMX may do more.",
    ]
    if pure:
        lines.append(
            f"- llama.cpp's types of {', '.join(pure)} are made with `--pure`: its table has the same, "
            "as ours. Otherwise llama-quantize keeps a tied table in 6 or 8 bits."
        )
    return lines
