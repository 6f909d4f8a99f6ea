"""Runs the programs and reads their figures."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.command_line import ROOT
from scripts.bench.contenders import (
    BUSY,
    DECODE,
    DECODE_TOKENS,
    DEEP,
    DEPTH,
    DIVERGENCE,
    LLAMA,
    MODELS,
    PREFILL,
    PREFILL_TOKENS,
    START,
    Contender,
)
from scripts.bench.work import LLAMA_BIN, RUNNERS

PROMPT = "The capital of France is"
PROMPT_TOKENS = 5  # ours are given as ids, since et_run prints a prompt of text at once
START_TOKENS = 16
CACHE_BYTES = 2  # an element of a quantized model's cache
LLAMA_START_CONTEXT = 512  # its cache is resident whole; ours as far as it is used
TIMEOUT_SECONDS = 900
TELLING_SECONDS = 0.5  # the kernel counts CPU time in steps of 0.01
DIVERGENCE_WINDOWS = 8  # of 512 tokens, whose second halves are compared
KERNEL_BENCH = ROOT / "cmake-out" / "kernel_bench"
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Finished:
    """A program's end. `first_byte_seconds` runs from its start to the first byte on its stdout.

    `others_cores` is how many cores other programs kept busy meanwhile; 0 where the run was too
    short to tell.
    """

    seconds: float
    first_byte_seconds: float
    peak_rss_bytes: int
    others_cores: float
    stdout: str
    stderr: str


def run(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Finished:
    """Raises ValueError with the program's last words where it fails or takes too long."""
    words = [str(word) for word in command]
    name = Path(words[0]).name
    if not Path(words[0]).is_file():
        raise ValueError(f"{name} is not built; run scripts/build_native.sh")
    with tempfile.TemporaryFile() as errors:
        busy, start = _busy_seconds(), time.monotonic()
        process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        killer = threading.Timer(TIMEOUT_SECONDS, process.kill)
        killer.start()
        try:
            first = os.read(process.stdout.fileno(), 1 << 16)
            first_byte_seconds = time.monotonic() - start
            rest = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - start
            busy = _busy_seconds() - busy - usage.ru_utime - usage.ru_stime
        finally:
            killer.cancel()
            process.stdout.close()
            if process.returncode is None:
                process.kill()
                process.wait()
        errors.seek(0)
        stderr = errors.read().decode(errors="replace")
    if process.returncode != 0:
        lines = stderr.strip().splitlines() or ["it said nothing"]
        raise ValueError(f"{name} ended with status {process.returncode}: {lines[-1]}")
    stdout = (first + rest).decode(errors="replace")
    others = max(busy, 0.0) / seconds if seconds >= TELLING_SECONDS else 0.0
    rss = usage.ru_maxrss * RSS_UNIT
    return Finished(seconds, first_byte_seconds, rss, others, stdout, stderr)


def measure(
    contender: Contender, name: str, path: Path, threads: int, prose: Sequence[Path]
) -> dict[str, float]:
    """One measurement's figures by metric, BUSY among them; `path` is the artifact that it runs."""
    if contender.engine == LLAMA:
        llama = _llama_start if name == START else _llama_bench
        return llama(contender, name, path, threads)
    if name == DIVERGENCE:
        return _divergence(contender, path, threads, prose)
    if name == START:
        return _our_start(contender, path, threads)
    prompt_tokens, steps = {
        PREFILL: (PREFILL_TOKENS, 1),
        DECODE: (1, DECODE_TOKENS),
        DEEP: (DEPTH, DECODE_TOKENS),
    }[name]
    ids = random_ids(MODELS[contender.model].config.vocab_size, prompt_tokens)
    done, stats = _our_run(contender, path, threads, ["--tokens", ids, "-n", steps])
    key = "prefill_tokens_per_second" if name == PREFILL else "decode_tokens_per_second"
    return {name: stats[key], BUSY: done.others_cores}


def random_ids(vocab_size: int, count: int) -> str:
    """As `--tokens` takes them, the same in every run; llama-bench's are random too."""
    generator = random.Random(0)
    return ",".join(str(generator.randrange(vocab_size)) for _ in range(count))


def _our_run(
    contender: Contender, path: Path, threads: int, arguments: Sequence[object]
) -> tuple[Finished, dict]:
    command = [RUNNERS[contender.engine], path, *arguments, "-t", 0, "--ignore-eos"]
    done = run([*command, "--stats", "--json", "--threads", threads], contender.environment)
    stats = json.loads(done.stderr.strip().splitlines()[-1])
    wanted = contender.environment.get("LOWBIT_ISA")
    if wanted is not None and stats["isa"] != wanted:
        raise ValueError(f"{wanted} was asked for and {stats['isa']} ran")
    return done, stats


def _our_start(contender: Contender, path: Path, threads: int) -> dict[str, float]:
    config = MODELS[contender.model].config
    ids = random_ids(config.vocab_size, PROMPT_TOKENS)
    done, stats = _our_run(contender, path, threads, ["--tokens", ids, "-n", START_TOKENS])
    position = 2 * sum(layer.attention.kv_width for layer in config.layers) * CACHE_BYTES
    return {
        "first_token": done.first_byte_seconds,
        "peak_rss": done.peak_rss_bytes,
        "used_cache": (stats["prompt_tokens"] + stats["generated_tokens"]) * position,
        BUSY: done.others_cores,
    }


def _llama_bench(contender: Contender, name: str, path: Path, threads: int) -> dict[str, float]:
    sizes = {
        PREFILL: (PREFILL_TOKENS, 0, 0),
        DECODE: (0, DECODE_TOKENS, 0),
        DEEP: (0, DECODE_TOKENS, DEPTH),
    }
    prompt, generated, depth = sizes[name]
    done = run(
        [LLAMA_BIN / "llama-bench", "-m", path, "-p", prompt, "-n", generated, "-d", depth,
         "-t", threads, "-r", 1, "-o", "json"],
        contender.environment,
    )  # fmt: skip
    results = json.loads(done.stdout)
    if len(results) != 1:
        raise ValueError(f"llama-bench gave {len(results)} results where one was asked for")
    return {name: results[0]["avg_ts"], BUSY: done.others_cores}


def _llama_start(contender: Contender, name: str, path: Path, threads: int) -> dict[str, float]:
    """As it comes, and without the warm-up run and the fitting of its options to the memory."""
    command = [
        LLAMA_BIN / "llama-completion", "-m", path, "-p", PROMPT, "-n", START_TOKENS,
        "-t", threads, "-c", LLAMA_START_CONTEXT, "--temp", 0, "--ignore-eos", "-no-cnv",
        "--no-display-prompt", "--simple-io",
    ]  # fmt: skip
    done = run(command, contender.environment)
    best = run([*command, "--no-warmup", "-fit", "off"], contender.environment)
    return {
        "first_token": done.first_byte_seconds,
        "first_token_best": best.first_byte_seconds,
        "peak_rss": done.peak_rss_bytes,
        BUSY: max(done.others_cores, best.others_cores),
    }


def _divergence(
    contender: Contender, path: Path, threads: int, prose: Sequence[Path]
) -> dict[str, float]:
    source = MODELS[contender.model].source
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "prose.txt"
        whole = "\n".join(file.read_text(encoding="utf-8") for file in prose)
        text.write_text(whole, encoding="utf-8")
        done = run(
            [sys.executable, "-m", "exporter", "eval", path, "--text", text, "--reference", source,
             "--windows", DIVERGENCE_WINDOWS, "--threads", threads, "--json"]
        )  # fmt: skip
    return {DIVERGENCE: json.loads(done.stdout)["reference"]["kl_mean"]}


def share_of_dot_peak(threads: int, model: str) -> float:
    """What a 512-token prompt's linear layers reach of dot-product instructions back to back."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    lines = run([KERNEL_BENCH, "--json"], environment).stdout.splitlines()
    machine, *shapes = map(json.loads, lines)
    layers = [s for s in shapes if s["shape"].startswith(f"{model}.")]
    work = sum(layer["rows"] * layer["columns"] for layer in layers)
    time = sum(s["rows"] * s["columns"] / s["prefill_gmac_per_s"] for s in layers)
    return work / time / machine["peak_gmac_per_s"]


def bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read from memory."""
    if KERNEL_BENCH.is_file():
        environment = {"OMP_NUM_THREADS": str(threads)}
        done = run([KERNEL_BENCH, "--bandwidth", "--json"], environment)
    else:
        done = run([sys.executable, "-m", "scripts.bench.bandwidth", threads])
    return json.loads(done.stdout)["read_gb_per_s"] * 1e9


def _busy_seconds() -> float:
    """CPU time that all programs together have used; 0 where it cannot be told."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
