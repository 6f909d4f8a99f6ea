"""What is measured: the models, and for each the contenders with the artifacts they run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.model.config import ModelConfig
from scripts.bench.command_line import ROOT
from scripts.bench.shapes import SHAPES

# The engines: et_run, aoti_run, aoti_run on libtorch, llama.cpp.
ET, AOTI, TORCH, LLAMA = "et", "aoti", "torch", "llama"
PREFILL, DECODE, DEEP, START, DIVERGENCE = "prefill", "decode", "deep", "start", "divergence"
DOT_PEAK = "dot_peak"  # a metric: the share of the dot-product peak inside the linear layers
BUSY = "busy"  # a metric: the cores that other programs used meanwhile
SWEEP = (PREFILL, DECODE, DEEP, START, DIVERGENCE)
SPEED = (PREFILL, DECODE)

CPUINFO = Path("/proc/cpuinfo")
PREFILL_TOKENS = 512
DECODE_TOKENS = 128
DEPTH = 4096
DEEP_CONTEXT = DEPTH + 512
PROSE = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
STOCK_XNNPACK = {
    "embedding": {"bitwidth": 4, "groupsize": 32},
    "linear:a8w4dq": {"groupsize": 32},
}
# Of all matrices, the tied table too, as llama-quantize's TQ2_0 with --pure: 2.0625 bits a weight.
TERNARY = {name: {"bitwidth": 2, "groupsize": 256} for name in ("embedding:wx", "linear:a8wx")}


@dataclass(frozen=True)
class Model:
    """`source` is what the exporter is given: an alias, or None for random weights.

    `quantize_options` go to llama-quantize. SmolLM2 keeps its table in 8 bits, as users' files do;
    the random model has its table in 4 bits on both sides.
    """

    name: str
    label: str
    source: str | None
    quantize_options: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        return SHAPES[self.name]


MODELS = {
    "smollm2": Model("smollm2", "SmolLM2", "smollm2"),
    "llama3.2-1b": Model("llama3.2-1b", "1B shape", None, ("--pure",)),
}


@dataclass(frozen=True)
class Artifact:
    """A file in the work folder: the exporter's by `options`, or a GGUF of type `options[0]`."""

    model: str
    name: str
    options: tuple[str, ...]

    @property
    def file(self) -> str:
        return f"{self.model}-{self.name}"


@dataclass(frozen=True)
class Contender:
    """`deep` is the artifact with room for DEPTH positions, where that is another one."""

    name: str
    engine: str
    artifact: Artifact
    measures: tuple[str, ...]
    deep: Artifact | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return self.artifact.model

    def artifacts(self) -> tuple[Artifact, ...]:
        return (self.artifact,) if self.deep is None else (self.artifact, self.deep)


def _ours(
    model: str, name: str, measures: tuple[str, ...], *options: str
) -> tuple[Contender, ...]:
    """The contenders NAME.pte and NAME.pt2."""
    return tuple(
        Contender(
            f"{name}{suffix}",
            engine,
            Artifact(model, f"{name}{suffix}", options),
            measures,
            _deep(model, name, suffix, options) if DEEP in measures else None,
        )
        for engine, suffix in ((ET, ".pte"), (AOTI, ".pt2"))
    )


def _deep(model: str, name: str, suffix: str, options: tuple[str, ...]) -> Artifact:
    more = ("--max-seq-length", str(DEEP_CONTEXT))
    return Artifact(model, f"{name}-{DEEP_CONTEXT}{suffix}", (*options, *more))


def _llama(model: str, kind: str, measures: tuple[str, ...]) -> Contender:
    artifact = Artifact(model, f"{kind}.gguf", (kind,))
    return Contender(f"llama-{kind.lower()}", LLAMA, artifact, measures)


def _without_amx(model: str) -> tuple[Contender, ...]:
    """llama.cpp's Q4_0 again, on a CPU with AMX, with a library that does without."""
    if not (CPUINFO.is_file() and "amx_int8" in CPUINFO.read_text(encoding="utf-8").split()):
        return ()
    artifact = Artifact(model, "Q4_0.gguf", ("Q4_0",))
    environment = {"LD_LIBRARY_PATH": str(ROOT / ".deps" / "llama.cpp-noamx" / "bin")}
    return (Contender("llama-q4_0-noamx", LLAMA, artifact, SPEED, None, environment),)


def _quantized(model: str, recipe: str, *measures: str) -> tuple[Contender, ...]:
    return _ours(model, recipe, measures, "--quantize", recipe)


def _forced_avx2(model: str) -> tuple[Contender, ...]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return ()
    artifact = Artifact(model, "q4.pte", ("--quantize", "q4"))
    return (Contender("q4.pte-avx2", ET, artifact, SPEED, None, {"LOWBIT_ISA": "avx2"}),)


def _on_libtorch(model: str) -> Contender:
    """The package of q4 again, as PyTorch loads and runs it."""
    artifact = Artifact(model, "q4.pt2", ("--quantize", "q4"))
    return Contender("q4.pt2-torch", TORCH, artifact, (*SPEED, START))


def _stock(model: str) -> tuple[Contender, ...]:
    recipe = ("--delegate", "xnnpack", "--quantize", json.dumps(STOCK_XNNPACK))
    plain = ("--delegate", "stock", "--dtype", "bf16")
    return (
        Contender("xnnpack.pte", ET, Artifact(model, "xnnpack.pte", recipe), SPEED),
        Contender("stock-bf16.pt2", TORCH, Artifact(model, "stock-bf16.pt2", plain), SPEED),
    )


CONTENDERS: tuple[Contender, ...] = (
    *_quantized("smollm2", "q4", *SPEED, START),
    _on_libtorch("smollm2"),
    *_ours("smollm2", "bf16", SPEED, "--dtype", "bf16"),
    *_quantized("smollm2", "q8", DIVERGENCE),
    *_stock("smollm2"),
    _llama("smollm2", "Q4_0", (*SPEED, START)),
    *_without_amx("smollm2"),
    _llama("smollm2", "BF16", SPEED),
    *_quantized("llama3.2-1b", "q4", *SPEED, DEEP, START),
    _on_libtorch("llama3.2-1b"),
    *_forced_avx2("llama3.2-1b"),
    *_quantized("llama3.2-1b", "q3", DECODE),
    *_quantized("llama3.2-1b", "q2", DECODE),
    *_ours("llama3.2-1b", "ternary", (DECODE,), "--quantize", json.dumps(TERNARY)),
    *_quantized("llama3.2-1b", "q1", DECODE),
    _llama("llama3.2-1b", "Q4_0", (*SPEED, DEEP, START)),
    *_without_amx("llama3.2-1b"),
    _llama("llama3.2-1b", "TQ2_0", (DECODE,)),
    _llama("llama3.2-1b", "Q1_0", (DECODE,)),
)
QUICK = ("q4.pte", "q4.pt2", "llama-q4_0")


def select(models: list[str], names: list[str] | None) -> tuple[Contender, ...]:
    """The contenders of `models`, only those of `names` where it is given.

    Raises ValueError naming what is unknown.
    """
    for model in models:
        if model not in MODELS:
            raise ValueError(f"unknown model {model!r}; use {', '.join(MODELS)}")
    known = dict.fromkeys(c.name for c in CONTENDERS if c.model in models)
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown contender {name!r}; use {', '.join(known)}")
    return tuple(
        c for c in CONTENDERS if c.model in models and (names is None or c.name in names)
    )
