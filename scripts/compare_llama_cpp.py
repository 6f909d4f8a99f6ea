#!/usr/bin/env python3
"""Measures what llama.cpp's quantization types lose on a model, against its float GGUF.

    .venv/bin/python scripts/compare_llama_cpp.py FLOAT.gguf --calibrate A.txt --text B.txt \\
        --out FILE.json

Makes an importance matrix from the first windows of --calibrate, quantizes each of --types with it,
and has llama-perplexity compare each with the float model over the first windows of --text: windows
of 512 tokens, the second half of each scored. --out, JSON, holds for each type the file's bytes,
bits a weight of the whole file, perplexity, mean KL divergence in nats and top-1 agreement; and the
tokens that were scored, for others to score the same. It is written after each type: what an
interrupted run has measured is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.util.files import check_writable, written_whole  # noqa: E402
from scripts.bench.command_line import Parser, UsageError, exit_status, note, positive  # noqa: E402

FLOAT = "F32"  # the float file itself: what the comparison's own rounding comes to
# On x86 llama.cpp multiplies these value by value, a hundred times slower. They are measured with
# the weights turned back to float32 and their inputs unrounded, which is in their favour.
WITHOUT_KERNEL = ("Q2_0",)
TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_XXS", "IQ2_M", "Q2_K", "Q2_0",
    "Q5_0:pure", "Q4_0:pure", "Q3_K_S:pure", "IQ2_M:pure", "Q2_0:pure",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    for path in (options.model, options.calibrate, options.text):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: check the path")
    check_writable(options.out)
    if options.calibrate.samefile(options.text):
        raise UsageError(f"--calibrate and --text are both {options.text}; see --help")
    from scripts.bench.work import build_llama_cpp

    build_llama_cpp()
    options.work.mkdir(parents=True, exist_ok=True)
    results = _prepared(options)
    for kind in options.types:
        if kind in results["types"]:
            continue
        start = time.monotonic()
        results["types"][kind] = row = _measured(kind, options, results)
        _save(results, options.out)
        note(f"{kind}: {row['bits_a_weight']:.3f} bits a weight, ppl {row['ppl']:.4f}, "
             f"KL {row['kl']:.6f} ({time.monotonic() - start:.0f} s)")  # fmt: skip
    print(table(results))
    return 0


def _prepared(options: argparse.Namespace) -> dict:
    """The earlier results of the same settings, or new ones; importance and base are there then."""
    from scripts.bench import llama_quality as llama

    settings = {
        "model": _digest(options.model),
        "calibrate": _digest(options.calibrate),
        "text": _digest(options.text),
        "windows": options.chunks,
        "importance_windows": options.importance_chunks,
        "llama_cpp": llama.version(),
    }
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    importance, base = (options.work / f"{name}-{key}" for name in ("importance.gguf", "base"))
    results = _earlier(options.out, settings)
    if not importance.is_file():
        chunks = options.importance_chunks
        note(f"importance matrix from {chunks} windows of {options.calibrate.name}")
        with written_whole(importance) as part:
            llama.make_importance(
                options.model, options.calibrate, part, chunks, options.threads
            )
    if results is None or not base.is_file():
        note(f"the float model over {options.chunks} windows of {options.text.name}")
        with written_whole(base) as part:
            ppl, error = llama.make_base(
                options.model, options.text, part, options.chunks, options.threads
            )
        windows = llama.base_windows(base, options.model)
        results = results or {"types": {}}
        results |= {
            "settings": settings,
            "float": {"file_bytes": options.model.stat().st_size,
                      "parameters": llama.parameters(options.model),
                      "ppl": ppl, "ppl_error": error},
            "windows": {**windows.to_json(), "as_ours": _as_ours(windows, options)},
        }  # fmt: skip
        _save(results, options.out)
        note(f"float: ppl {ppl:.4f}")
    options.importance, options.base = importance, base
    return results


def _measured(kind: str, options: argparse.Namespace, results: dict) -> dict[str, object]:
    from scripts.bench import llama_quality as llama

    parameters = results["float"]["parameters"]
    if kind == FLOAT:
        return _row(options.model, parameters, options, options.model)
    path = options.work / f"{kind.replace(':', '-')}.gguf"
    as_float = path.with_suffix(".F32.gguf")
    slow = kind.removesuffix(llama.PURE) in WITHOUT_KERNEL
    try:
        start = time.monotonic()
        found = llama.quantize(options.model, path, kind, options.importance, options.threads)
        seconds = time.monotonic() - start
        if sum(found.weights.values()) != parameters:
            raise ValueError(f"llama-quantize names {sum(found.weights.values())} weights of "
                             f"{parameters}: it is another version than the one known")  # fmt: skip
        if slow:
            llama.dequantize(path, as_float, options.threads)
        return {
            **_row(path, parameters, options, as_float if slow else path),
            "weights_by_type": found.weights,
            "tensors_fallen_back": found.fallen_back,
            "quantize_seconds": round(seconds, 1),
            "dequantized": slow,
        }
    finally:
        as_float.unlink(missing_ok=True)
        if not options.keep:
            path.unlink(missing_ok=True)


def _row(
    path: Path, parameters: int, options: argparse.Namespace, measured: Path
) -> dict[str, object]:
    """Bits a weight are of the whole file `path`, header and tokenizer included; `measured` is what
    runs in its place."""
    from scripts.bench import llama_quality as llama

    size = path.stat().st_size
    quality = llama.divergence(measured, options.base, options.threads)
    return {"file_bytes": size, "bits_a_weight": 8 * size / parameters, **asdict(quality)}


def _as_ours(windows, options: argparse.Namespace) -> bool:
    """Whether our tokenizer makes the same windows of the text."""
    from exporter.tokenizer.tokenizer import read_tokenizer

    count, length = windows.tokens.shape
    ids = read_tokenizer(options.model).encode(options.text.read_text(encoding="utf-8"))
    return ids[: count * length] == windows.tokens.flatten().tolist()


def _earlier(path: Path, settings: dict[str, object]) -> dict | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["settings"] == settings else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _save(results: dict, path: Path) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(results), encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        hasher = hashlib.sha256()
        while block := file.read(1 << 24):
            hasher.update(block)
    return f"{path.name} {hasher.hexdigest()}"


def table(results: dict) -> str:
    """Markdown, the types in order of size."""
    lines = ["| type | bits a weight | ppl | mean KL | top-1 | fell back |", "|---" * 6 + "|"]
    ordered = sorted(results["types"].items(), key=lambda item: item[1]["file_bytes"])
    for kind, row in ordered:
        fallen = ", ".join(f"{n} to {to}" for to, n in row.get("tensors_fallen_back", {}).items())
        lines.append(
            f"| {kind} | {row['bits_a_weight']:.3f} | {row['ppl']:.4f} | {row['kl']:.6f} | "
            f"{row['top1']:.4f} | {fallen or '-'} |"
        )
    return "\n".join([f"float: ppl {results['float']['ppl']:.4f}", "", *lines])


def _types(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _parser() -> Parser:
    parser = Parser(prog="compare_llama_cpp.py", description=__doc__)
    add = parser.add_argument
    add("model", metavar="FLOAT.gguf", type=Path, help="the float model, F32 or BF16")
    add("--calibrate", metavar="FILE", type=Path, required=True, help="for the importance matrix")
    add("--text", metavar="FILE", type=Path, required=True, help="text to evaluate on")
    add("--out", metavar="FILE", type=Path, required=True, help="the JSON file to write")
    add("--types", metavar="A,B:pure", type=_types, default=TYPES,
        help=f"{FLOAT} for the float file itself; default: {','.join(TYPES)}")  # fmt: skip
    add("--chunks", metavar="N", type=positive, default=20, help="windows of --text; default: 20")
    add("--importance-chunks", metavar="N", type=positive, default=100,
        help="windows of --calibrate; default: 100")  # fmt: skip
    add("--work", metavar="DIR", type=Path, default=Path(".bench/llama-quality"),
        help="for the importance matrix and the float model's log-probabilities (25 MB a window); "
        "default: .bench/llama-quality")  # fmt: skip
    add("--keep", action="store_true", help="leave the quantized files in --work")
    add("--threads", metavar="N", type=positive, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
