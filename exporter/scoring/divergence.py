"""Measure how far a model's next-token probabilities are from a float model's.

Kullback-Leibler divergence KL(reference || model) in nats a position and whether both prefer the
same token, as `llama-perplexity --kl-divergence` has them, but without its 16-bit reference:
nothing is stored, two models read the same window and their logits are compared block by block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from exporter.artifact.runner_interface import RunLimits
from exporter.scoring.perplexity import Score, Window, perplexity, standard_error, target_bytes

if TYPE_CHECKING:
    from exporter.artifact.runner_interface import RunnerModel
    from exporter.checkpoint.checkpoint import Checkpoint
    from exporter.lowbit.decoder import Decoder

TARGETS_AT_ONCE = 256  # targets whose logits are held at once: float32 [256, V]
COMPARED = 1 << 18  # logits compared at once: small enough for a core's cache
PERCENTILE = 99


class WindowLogits(Protocol):
    """A model whose logits of a window's targets can be had."""

    def blocks(self, window: Window) -> Iterator[Tensor]:
        """Yield float32 logits [R, V] of the targets in order, R = TARGETS_AT_ONCE but for the last."""


@dataclass(frozen=True)
class Divergences:
    """What divides two models at each of R positions: KL in nats float64 [R], whether the most likely token
    is the same, and what takes the model's logits to log-probabilities."""

    kl: np.ndarray
    same_top: np.ndarray  # bool [R]
    log_sum: np.ndarray  # float64 [R]: logarithm of the sum of exp of the model's logits


@dataclass(frozen=True)
class Comparison:
    """What two models gave a window: `positions`, and the log-probabilities of the targets by the
    model and by the reference, in nats, float32 [targets]."""

    positions: Divergences
    log_probs: np.ndarray
    reference_log_probs: np.ndarray


@dataclass(frozen=True)
class Summary:
    """Figures over all positions; KL in nats."""

    positions: int
    perplexity: float  # the reference's
    perplexity_ratio: float  # the model's over the reference's
    perplexity_ratio_error: float
    kl_mean: float
    kl_error: float
    kl_median: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    top1_error: float

    def figures(self) -> dict[str, float | int]:
        """Return the figures for JSON."""
        return asdict(self)


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the natural logarithms of the probabilities, float32 [R, V], of logits [R, V].

    Kept as float16 they cost `divergence` less than 1e-6 nats in the mean, since it makes the
    probabilities sum to one again; the most likely of tokens a thousandth apart may then change.
    """
    return logits.float().log_softmax(-1)


def divergence(log_p: Tensor, logits: Tensor) -> Divergences:
    """Compute KL(p || softmax(logits)) of each row.

    Args:
        log_p: the reference's log-probabilities [R, V], float32 or float16.
        logits: the other model's, float32 [R, V].

    Raises ValueError where the shapes differ or values are not finite.
    """
    if log_p.shape != logits.shape:
        raise ValueError(
            f"logits of shape {list(logits.shape)} cannot be compared with a reference of "
            f"{list(log_p.shape)}: give the model that the artifact was made from"
        )
    kl = torch.empty(len(log_p), dtype=torch.float64)
    log_sum = torch.empty_like(kl)
    same = np.empty(len(log_p), dtype=bool)
    step = max(1, COMPARED // log_p.shape[1])
    for start in range(0, len(log_p), step):
        rows = slice(start, start + step)
        p, q = log_p[rows].float(), logits[rows].float()
        kl[rows], log_sum[rows] = _compare(p, q)
        same[rows] = p.numpy().argmax(1) == q.numpy().argmax(1)  # ten times as fast as torch's
    if not bool(torch.isfinite(kl).all()):
        raise ValueError("the logits are not finite: the model is broken; export it again")
    return Divergences(kl.numpy(), same, log_sum.numpy())


def _compare(log_p: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL and the logarithm of the sum of exp(logits), float64 [R].

    Everything large is taken off before it is summed: the terms are of the size of the logits'
    differences, so that float32 sums are good to 1e-7 of them.
    """
    most = logits.amax(-1, keepdim=True)
    shifted = logits - most
    log_sum = shifted.exp().sum(-1).double().log()
    p = log_p.exp()
    mass = p.sum(-1).double()
    cross = torch.linalg.vecdot(p, log_p - shifted).double()
    kl = cross / mass - mass.log() + log_sum
    return kl.clamp_min(0.0), most[:, 0].double() + log_sum


def target_log_probabilities(
    logits: Tensor, targets: Sequence[int], positions: Divergences
) -> np.ndarray:
    """Return the log-probability of each row's target in nats, float32 [R], from `divergence`'s result for
    the same logits."""
    chosen = logits.numpy()[np.arange(len(targets)), np.asarray(targets)]
    return (chosen - positions.log_sum).astype(np.float32)


def summarize(parts: Sequence[Comparison]) -> Summary:
    """Sum up all positions of `parts`; errors are those of means of independent positions.

    The ratio's is that of the targets' differences, to first order: where both models find the same
    tokens hard, far less than that of either perplexity.
    """
    kl = np.concatenate([part.positions.kl for part in parts])
    same_top = np.concatenate([part.positions.same_top for part in parts])
    expected = np.concatenate([part.reference_log_probs for part in parts]).astype("float64")
    actual = np.concatenate([part.log_probs for part in parts]).astype("float64")
    count, top1 = len(kl), float(same_top.mean())
    lost = expected - actual
    ratio = perplexity(float(lost.mean()))
    return Summary(
        positions=count,
        perplexity=perplexity(-float(expected.mean())),
        perplexity_ratio=ratio,
        perplexity_ratio_error=ratio * _error(lost),
        kl_mean=float(kl.mean()),
        kl_error=_error(kl),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.percentile(kl, PERCENTILE)),
        kl_max=float(kl.max()),
        top1_agreement=top1,
        top1_error=math.sqrt(top1 * (1 - top1) / (count - 1)) if count > 1 else math.nan,
    )


def _error(values: np.ndarray) -> float:
    return standard_error(float(values.sum()), float((values * values).sum()), len(values))


class DecoderLogits:
    """`WindowLogits` of a decoder run eagerly; its session is used again from window to window."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self._session = decoder.new_session()

    @property
    def vocab_size(self) -> int:
        return self.decoder.config.vocab_size

    def blocks(self, window: Window) -> Iterator[Tensor]:
        tokens = torch.tensor([window.tokens])
        for start, end, wanted in passes(window, TARGETS_AT_ONCE, TARGETS_AT_ONCE):
            rows = torch.arange(end - start) if wanted else torch.tensor([end - start - 1])
            with torch.inference_mode():
                logits = self._session.read(tokens[:, start:end], start, rows)
            if wanted:
                yield logits

    def logits(self, window: Window) -> Tensor:
        """Return float32 logits [targets, V] of all targets at once."""
        return torch.cat(list(self.blocks(window)))


class RunnerLogits:
    """`WindowLogits` of a model of `exporter.runners.native` or `exporter.runners.eager`."""

    def __init__(self, model: RunnerModel):
        self.model = model
        self._limits = RunLimits.of(model)

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    def blocks(self, window: Window) -> Iterator[Tensor]:
        held: list[Tensor] = []
        rows_held = 0
        for start, end, wanted in passes(window, self._limits.max_chunk, self._limits.max_rows):
            part = window.tokens[start:end]
            rows = list(range(len(part))) if wanted else [len(part) - 1]
            logits = torch.from_numpy(self.model.forward(part, start, rows))
            if not wanted:
                continue
            held.append(logits)
            rows_held += len(logits)
            if rows_held >= TARGETS_AT_ONCE or end == len(window.tokens) - 1:
                yield torch.cat(held) if len(held) > 1 else logits
                held, rows_held = [], 0


def passes(window: Window, most_tokens: int, most_rows: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the forwards that give a window's targets: start, end, and whether logits are wanted.

    Every pass with logits ends at a multiple of TARGETS_AT_ONCE targets or before; the last target is never
    read.
    """
    start = 0
    while start < window.first - 1:
        end = min(start + most_tokens, window.first - 1)
        yield start, end, False
        start = end
    last = len(window.tokens) - 1
    step = min(most_rows, TARGETS_AT_ONCE)
    while start < last:
        left = TARGETS_AT_ONCE - (start - (window.first - 1)) % TARGETS_AT_ONCE
        end = min(start + min(step, left), last)
        yield start, end, True
        start = end


def reference_logits(checkpoint: Checkpoint, context: int) -> DecoderLogits:
    """Load the eager float32 decoder of `checkpoint`, for windows of at most `context` tokens.

    Raises ValueError or OSError with a line that names the remedy.
    """
    from exporter.checkpoint.load import load_model

    return DecoderLogits(load_model(checkpoint, torch.float32, context))


def compare_window(reference: WindowLogits, model: WindowLogits, window: Window) -> Comparison:
    """Let both models read the window, and compare what they give its targets."""
    parts, scores, expected_scores, done = [], [], [], window.first
    for expected, actual in zip(reference.blocks(window), model.blocks(window), strict=True):
        log_p = log_probabilities(expected)
        parts.append(divergence(log_p, actual))
        targets = window.tokens[done : done + len(actual)]
        scores.append(target_log_probabilities(actual, targets, parts[-1]))
        expected_scores.append(log_p.numpy()[np.arange(len(targets)), np.asarray(targets)])
        done += len(actual)
    positions = Divergences(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.same_top for part in parts]),
        np.concatenate([part.log_sum for part in parts]),
    )
    return Comparison(positions, np.concatenate(scores), np.concatenate(expected_scores))


def compared_scores(
    reference: DecoderLogits,
    model: RunnerLogits,
    windows: Sequence[Window],
    receive: Callable[[Comparison], None],
) -> Iterator[Score]:
    """Yield the model's `Score` after each window, whose Comparison `receive` is given; the time is that of
    both models.

    Raises ValueError where the two have different vocabularies.
    """
    if reference.vocab_size != model.vocab_size:
        raise ValueError(
            f"the reference has a vocabulary of {reference.vocab_size} and the model of "
            f"{model.vocab_size}: give the checkpoint that the model was made from"
        )
    score = Score()
    for window in windows:
        start = time.monotonic()
        found = compare_window(reference, model, window)
        size = target_bytes(model.model.tokenizer, window)
        score = score.plus(window, found.log_probs, size, time.monotonic() - start)
        receive(found)
        yield score
