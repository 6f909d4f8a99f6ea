"""llama.cpp's programs for quality: importance matrix, quantization, perplexity and divergence."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.formats.gguf_file import read_gguf
from scripts.bench.command_line import first_line
from scripts.bench.work import LLAMA_BIN

PURE = ":pure"
NUMBER = r"([-+.\d]+(?:e[-+]?\d+)?|nan|-?inf)"
FALLBACK = re.compile(r"- ncols .*falling back to\s+(\w+)")
TENSOR = re.compile(r"\[ *\d+/ *\d+\] +\S+ +- \[([\d, ]+)\], type = +(\w+),")
CONVERTED = re.compile(r"converting to (\w+) \.\.")


@dataclass(frozen=True)
class Windows:
    """The windows that llama-perplexity scores; `tokens` int32 [count, length].

    In each window the tokens from `length / 2 + 1` on are scored, each by what precedes it in the
    window: `length - 1 - length / 2` of them. Where `add_bos` holds the model sees bos in the place
    of each window's first token.
    """

    tokens: np.ndarray
    add_bos: bool

    def to_json(self) -> dict[str, object]:
        count, length = self.tokens.shape
        return {
            "count": count, "length": length, "first_scored": length // 2 + 1,
            "scored": length - 1 - length // 2, "add_bos": self.add_bos,
            "sha256": hashlib.sha256(self.tokens.astype("<i4").tobytes()).hexdigest(),
            "tokens": self.tokens.tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class Quality:
    """`kl` in nats a position, `top1` the share of positions with the float model's first token.

    The uncertainties are standard errors over the positions.
    """

    ppl: float
    ppl_error: float
    kl: float
    kl_error: float
    top1: float
    ppl_base: float


@dataclass(frozen=True)
class Quantized:
    """`weights` counts elements by their type, `fallen_back` tensors by the type they fell back to,
    their width not being a multiple of the wanted type's block."""

    weights: dict[str, int]
    fallen_back: dict[str, int]


def parameters(path: Path) -> int:
    """Of all tensors of a float GGUF. Raises ValueError or OSError where it is not a whole one."""
    return sum(math.prod(tensor.shape) for tensor in read_gguf(path).tensors.values())


def version() -> str:
    words = _run("llama-perplexity", ["--version"])
    found = re.search(r"commit ([\w.-]+)", words) or re.search(r"version: (.*)", words)
    return found.group(1) if found else "unknown"


def make_importance(model: Path, text: Path, out: Path, chunks: int, threads: int) -> None:
    """An importance matrix over the text's first `chunks` windows of 512 tokens."""
    options = ["-m", model, "-f", text, "-o", out, "-c", 512, "--chunks", chunks, "-t", threads]
    _run("llama-imatrix", options)


def make_base(
    model: Path, text: Path, out: Path, windows: int, threads: int
) -> tuple[float, float]:
    """Writes the float model's log-probabilities; returns its perplexity and the standard error."""
    words = _run("llama-perplexity", [*_evaluation(model, out, threads), "-f", text,
                                      "--chunks", windows])  # fmt: skip
    found = re.search(rf"Final estimate: PPL = {NUMBER} \+/- {NUMBER}", words)
    if found is None:
        raise ValueError(f"llama-perplexity gave no perplexity of {text.name}: its last words were "
                         f"{_last_line(words)!r}")  # fmt: skip
    return float(found.group(1)), float(found.group(2))


def base_windows(base: Path, model: Path) -> Windows:
    """The tokens at the head of a file that `make_base` wrote.

    Layout: "_logits_", uint32 length, int32 vocabulary, int32 count, int32 tokens [count, length].
    Source: llama.cpp, tools/perplexity/perplexity.cpp.
    """
    with base.open("rb") as file:
        if file.read(8) != b"_logits_":
            raise ValueError(f"{base} holds no log-probabilities of llama-perplexity: delete it")
        length, _, count = (int(value) for value in np.fromfile(file, "<i4", 3))
        tokens = np.fromfile(file, "<i4", count * length)
    if tokens.size != count * length:
        raise ValueError(f"{base} is cut short: delete it")
    from exporter.tokenizer.tokenizer import read_tokenizer

    return Windows(tokens.reshape(count, length), read_tokenizer(model).add_bos)


def quantize(model: Path, out: Path, kind: str, importance: Path, threads: int) -> Quantized:
    """Writes `out`; what it holds is read off the program's words: Python's gguf does not know all.

    `kind` is a type of llama-quantize's, with `:pure` for all tensors in that type.
    """
    pure = ["--pure"] if kind.endswith(PURE) else []
    words = _run("llama-quantize", [*pure, "--imatrix", importance, model, out,
                                    kind.removesuffix(PURE), threads])  # fmt: skip
    weights: Counter[str] = Counter()
    _, *parts = TENSOR.split(words)
    for dims, type, rest in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        converted = CONVERTED.search(rest)
        weights[converted.group(1) if converted else type] += math.prod(map(int, dims.split(",")))
    return Quantized(_in_capitals(weights), _in_capitals(Counter(FALLBACK.findall(words))))


def dequantize(model: Path, out: Path, threads: int) -> None:
    """Writes the values of a quantized GGUF as float32."""
    _run("llama-quantize", ["--allow-requantize", model, out, "F32", threads])


def _in_capitals(counts: Counter[str]) -> dict[str, int]:
    return {name.upper(): count for name, count in counts.most_common()}


def divergence(model: Path, base: Path, threads: int) -> Quality:
    """What `model` loses against the log-probabilities in `base`, over the same tokens.

    Those are stored in 16 bits, and tokens less likely than exp(-16) are left out of the sum.
    """
    words = _run("llama-perplexity", [*_evaluation(model, base, threads), "--kl-divergence"])
    try:
        ppl, ppl_error = _pair(r"Mean PPL\(Q\)", words)
        kl, kl_error = _pair(r"Mean +KLD", words)
        top1 = _pair("Same top p", words)[0] / 100
        return Quality(ppl, ppl_error, kl, kl_error, top1, _pair(r"Mean PPL\(base\)", words)[0])
    except LookupError as error:
        raise ValueError(f"llama-perplexity does not say {error} of {model.name}: its last words "
                         f"were {_last_line(words)!r}") from None  # fmt: skip


def _pair(name: str, words: str) -> tuple[float, float]:
    found = re.search(rf"{name} *: *{NUMBER} ± *{NUMBER}", words)
    if found is None:
        raise LookupError(name)
    return float(found.group(1)), float(found.group(2))


def _evaluation(model: Path, base: Path, threads: int) -> list[object]:
    return ["-m", model, "-c", 512, "-t", threads, "--kl-divergence-base", base]


def _run(tool: str, options: Sequence[object]) -> str:
    """The program's words, both streams. Raises ValueError with the one that says what is wrong."""
    program = LLAMA_BIN / tool
    if not program.is_file():
        raise ValueError(f"{tool} is not built; run scripts/build_llama_cpp.sh")
    done = subprocess.run(
        [str(program), *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # threads that spin cost others' time
    )  # fmt: skip
    if done.returncode != 0:
        telling = re.findall(r"^.*(?:error|failed|invalid|unknown).*$", done.stdout, re.M | re.I)
        reason = telling[0].strip() if telling else _last_line(done.stdout)
        raise ValueError(f"{tool} ended with status {done.returncode}: {reason}")
    return done.stdout


def _last_line(words: str) -> str:
    return first_line(ValueError("\n".join(reversed(words.splitlines()))))
