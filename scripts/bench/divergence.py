"""How far an artifact's next-token probabilities are from the float32 model's, over a text.

    python -m scripts.bench.divergence MODEL ARTIFACT --text FILE... [--positions N] [--threads N]

Prints the mean Kullback-Leibler divergence, float32 model to artifact, in nats a position.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporter.checkpoint import Checkpoint, open_checkpoint
from exporter.model import load_model, new_caches
from exporter.tokenizer import read_tokenizer
from scripts.bench.command_line import ROOT, Parser, exit_status, positive

ROWS_AT_ONCE = 128


def mean_divergence(
    model: str, artifact: Path, texts: Sequence[Path], positions: int, threads: int
) -> float:
    """Raises ValueError where the texts are too short or the runner fails."""
    checkpoint = open_checkpoint(model)
    ids = _token_ids(checkpoint, texts, positions)
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        actual = _artifact_logits(artifact, ids, Path(folder) / "logits.npy", threads)
        if actual.shape != (positions, checkpoint.config.vocab_size):
            raise ValueError(f"{artifact} wrote logits of shape {actual.shape}")
        for start, expected in _float_logits(checkpoint, ids):
            rows = torch.from_numpy(actual[start : start + len(expected)].astype(np.float64))
            log_p, log_q = expected.double().log_softmax(-1), rows.log_softmax(-1)
            total += (log_p.exp() * (log_p - log_q)).sum().item()
    return total / positions


def _token_ids(checkpoint: Checkpoint, texts: Sequence[Path], positions: int) -> list[int]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    ids = read_tokenizer(checkpoint.tokenizer_path).encode(text)
    if len(ids) < positions:
        raise ValueError(f"the text has {len(ids)} tokens and {positions} were asked for: add text")
    return ids[:positions]


def _artifact_logits(artifact: Path, ids: list[int], file: Path, threads: int) -> np.ndarray:
    runner = ROOT / "cmake-out" / ("et_run" if artifact.suffix == ".pte" else "aoti_run")
    if not runner.is_file():
        raise ValueError(f"{runner.name} is not built; run scripts/build_native.sh")
    command = [runner, artifact, "--tokens", ",".join(map(str, ids)), "--logits-out", file,
               "--threads", str(threads)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"{runner.name} failed: {done.stderr.strip().splitlines()[-1]}")
    return np.load(file, mmap_mode="r")


def _float_logits(checkpoint: Checkpoint, ids: list[int]) -> Iterator[tuple[int, Tensor]]:
    """The eager model's logits [rows, vocabulary] in float32, with their first position."""
    model = load_model(checkpoint, torch.float32, len(ids))
    caches = new_caches(checkpoint.config, len(ids), torch.float32)
    for start in range(0, len(ids), ROWS_AT_ONCE):
        part = torch.tensor([ids[start : start + ROWS_AT_ONCE]])
        with torch.no_grad():
            rows = torch.arange(part.shape[1])
            yield start, model(part, torch.tensor([start]), rows, caches)


def main(arguments: list[str]) -> int:
    parser = Parser(prog="divergence", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="what the artifact was exported from")
    parser.add_argument("artifact", metavar="ARTIFACT", type=Path, help=".pte, .pt2 or .so")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="+", required=True)
    parser.add_argument("--positions", metavar="N", type=positive, default=2000)
    parser.add_argument("--threads", metavar="N", type=positive, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(
        mean_divergence(
            options.model, options.artifact, options.text, options.positions, options.threads
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
