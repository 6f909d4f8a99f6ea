"""The rows of scripts/make_table.py: what is exported, what was found, and the Markdown of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MEBIBYTE = 1 << 20
OUTPUT_FLAGS = {"pte": "--output-pte", "pt2": "--output-aoti-package"}
BACKENDS = tuple(OUTPUT_FLAGS)
LOWBIT, XNNPACK, STOCK = "lowbit", "xnnpack", "stock"
TABLE_8BIT = {"embedding": {"bitwidth": 8, "groupsize": 0}}
TABLE_4BIT = {"embedding": {"bitwidth": 4, "groupsize": 32}}
HEADINGS = (
    "scheme", "file", "delegate", "size, MB", "bits a weight", "perplexity", "mean KL, nats",
    "same top token, %", "prefill, t/s", "decode, t/s", "decode, GB/s", "of the bandwidth, %",
    "peak memory, MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the exporter is asked for, and the backends that have it."""

    name: str
    options: tuple[str, ...]
    delegate: str = LOWBIT
    backends: tuple[str, ...] = BACKENDS

    def flags(self) -> tuple[str, ...]:
        delegate = () if self.delegate == LOWBIT else ("--delegate", self.delegate)
        return (*self.options, *delegate)


def _recipe(name: str, parts: dict, delegate: str = LOWBIT, *backends: str) -> Setting:
    return Setting(name, ("--quantize", json.dumps(parts)), delegate, backends or BACKENDS)


A8W4DQ = {"linear:a8w4dq": {"groupsize": 32}, **TABLE_4BIT}
INT8 = {"linear:int8": {"groupsize": 0}, **TABLE_8BIT}
INT4 = {"linear:int4": {"groupsize": 32}, **TABLE_8BIT}
INT4_STOCK = {"precision": {"dtype": "bf16"}, **INT4}


def _a8wxdq(bits: int) -> Setting:
    options = {"bitwidth": bits, "groupsize": 32, "has_weight_zeros": True}
    table = {"embedding:wx": {"bitwidth": bits, "groupsize": 32, "has_weight_zeros": True}}
    return _recipe(f"a8wxdq-{bits}", {"linear:a8wxdq": options, **table})


SETTINGS = (
    *(Setting(dtype, ("--dtype", dtype)) for dtype in ("fp32", "bf16", "fp16")),
    *(Setting(name, ("--quantize", name)) for name in ("q8", "q6", "q5", "q4", "q3", "q2")),
    _recipe("a8w4dq", A8W4DQ),
    *map(_a8wxdq, (4, 3, 2)),
    _recipe("int8", INT8),
    _recipe("int4", INT4),
    Setting("fp32-stock", ("--dtype", "fp32"), STOCK),
    Setting("bf16-stock", ("--dtype", "bf16"), STOCK),
    _recipe("a8w4dq-xnnpack", A8W4DQ, XNNPACK, "pte"),
    _recipe("a8w4dq-stock", A8W4DQ, STOCK, "pt2"),
    _recipe("int8-stock", INT8, STOCK, "pt2"),
    _recipe("int4-stock", INT4_STOCK, STOCK, "pt2"),
)


def select(names: Sequence[str] | None, more: Sequence[str]) -> tuple[Setting, ...]:
    """The settings of `names` (None: all), and those of `more`, NAME=EXPORT OPTIONS each.

    Raises ValueError naming what is unknown.
    """
    known = {setting.name: setting for setting in SETTINGS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown scheme {name!r}; use {', '.join(known)}, or --row")
    chosen = SETTINGS if names is None else tuple(known[name] for name in names)
    return (*chosen, *map(_read_row, more))


def _read_row(text: str) -> Setting:
    name, equals, options = text.partition("=")
    if not (name and equals and options.strip()) or "/" in name:
        raise ValueError(f"--row {text!r}: give NAME=EXPORT OPTIONS, as in 'mine=--quantize FILE'")
    words = shlex.split(options)
    delegate = words[words.index("--delegate") + 1] if "--delegate" in words[:-1] else LOWBIT
    if delegate != LOWBIT:
        at = words.index("--delegate")
        words = words[:at] + words[at + 2 :]
    return Setting(name, tuple(words), delegate)


@dataclass(frozen=True)
class Line:
    """What was found of one artifact; `quality` and `speed` are eval's and bench's own JSON."""

    setting: Setting
    backend: str
    size_bytes: int
    parameters: int
    quality: dict | None
    prefill: dict | None
    decode: dict | None
    disturbed: bool

    @property
    def bits(self) -> float:
        """Of the whole file, for each of the model's parameters."""
        return 8 * self.size_bytes / self.parameters

    def record(self) -> dict[str, object]:
        """For JSON."""
        return {
            "scheme": self.setting.name,
            "options": list(self.setting.flags()),
            "backend": self.backend,
            "delegate": self.setting.delegate,
            "size_bytes": self.size_bytes,
            "bits_a_weight": self.bits,
            "quality": self.quality,
            "prefill": self.prefill,
            "decode": self.decode,
            "disturbed": self.disturbed,
        }


def table(lines: Sequence[Line]) -> list[str]:
    out = [f"| {' | '.join(HEADINGS)} |", "|---|---|---|" + "---:|" * (len(HEADINGS) - 3)]
    return out + [f"| {' | '.join(_cells(line))} |" for line in lines]


def _cells(line: Line) -> list[str]:
    def speed(row: dict | None) -> str:
        if row is None:
            return "-"
        mark = " \\*" if line.disturbed else ""
        return f"{row['speed']:.1f} ± {row['deviation']:.1f}{mark}"

    def figure(found: dict | None, key: str, digits: int, factor: float = 1) -> str:
        value = None if found is None else found.get(key)
        return "-" if value is None else f"{value * factor:.{digits}f}"

    quality = line.quality or {}
    reference = quality.get("reference")
    perplexity = figure(quality, "perplexity", 3)
    if quality.get("perplexity_error") is not None:
        perplexity += f" ± {quality['perplexity_error']:.2f}"
    kl = figure(reference, "kl_mean", 5)
    if reference and reference.get("kl_error") is not None:
        kl += f" ± {reference['kl_error']:.5f}"
    memory = line.decode or line.prefill
    return [
        f"`{line.setting.name}`",
        f".{line.backend}",
        line.setting.delegate,
        f"{line.size_bytes / 1e6:.1f}",
        f"{line.bits:.2f}",
        perplexity,
        kl,
        figure(reference, "top1_agreement", 2, 100),
        speed(line.prefill),
        speed(line.decode),
        figure(line.decode, "achieved", 1, 1e-9),
        figure(line.decode, "share", 0, 100),
        figure(memory, "memory_bytes", 0, 1 / MEBIBYTE),
    ]
