"""Compare the artifact's next-token probabilities with the float model's, position by position.

Both read the same tokens (teacher forcing), so that a difference at one position does not hide
those after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from exporter.artifact.runner_interface import RunLimits, RunnerModel
from exporter.model.decoder import Transformer
from exporter.scoring.divergence import divergence, log_probabilities
from exporter.util.progress import Report
from exporter.verify.checks import Check, check
from exporter.verify.limits import Limits

_ROWS = 64  # of logits held at once



@dataclass(frozen=True)
class Prompt:
    """The tokens that both models read, and what a report shows of each."""

    ids: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class ComparedPositions:
    """What both models give at each of P positions of all prompts in order, arrays [P]: KL(float || artifact)
    in nats, cosine of the logits, the likeliest tokens of both. `broken` are positions whose logits are not
    all finite; they have no KL."""

    kl: np.ndarray  # float64
    cosine: np.ndarray  # float64
    expected: np.ndarray  # int64
    actual: np.ndarray
    broken: np.ndarray  # bool

    def finite(self) -> np.ndarray:
        return self.kl[~self.broken]


@dataclass(frozen=True)
class Greedy:
    """What the float model continues with, and the first place where the artifact would not."""

    expected: tuple[int, ...]
    first: int | None
    actual: int | None


def float_logits(model: Transformer, ids: Sequence[int]) -> Iterator[Tensor]:
    """Yield float32 logits [at most _ROWS, V] of every position."""
    session = model.new_session()
    for start in range(0, len(ids), _ROWS):
        part = torch.tensor([ids[start : start + _ROWS]])
        with torch.inference_mode():
            yield session.read(part, start, torch.arange(part.shape[1]))


def native_logits(native: RunnerModel, ids: Sequence[int]) -> np.ndarray:
    """Return float32 logits [len(ids), V] of what the artifact gives for `ids`."""
    step = RunLimits.of(native).max_rows
    parts = []
    for start in range(0, len(ids), step):
        part = list(ids[start : start + step])
        parts.append(np.asarray(native.forward(part, start, list(range(len(part))))))
    return np.concatenate(parts)


def compare_prompts(
    model: Transformer, native: RunnerModel, prompts: Sequence[Prompt], report: Report
) -> ComparedPositions:
    """Let both models read every prompt, each from an empty context, and compare their logits.

    Raises ValueError where the vocabularies differ.
    """
    found: list[tuple[np.ndarray, ...]] = []
    done, total = 0, sum(len(prompt.ids) for prompt in prompts)
    for prompt in prompts:
        actual = native_logits(native, prompt.ids)
        start = 0
        for expected in float_logits(model, prompt.ids):
            rows = torch.from_numpy(actual[start : start + len(expected)])
            if rows.shape != expected.shape:
                raise ValueError(
                    f"the artifact has a vocabulary of {rows.shape[1]} and the checkpoint one of "
                    f"{expected.shape[1]}: give the checkpoint it was exported from"
                )
            found.append(_compared(expected, rows))
            start += len(expected)
        done += len(prompt.ids)
        report(f"  compared {done} of {total} positions")
    return ComparedPositions(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _compared(expected: Tensor, actual: Tensor) -> tuple[np.ndarray, ...]:
    """Compare rows [R, V]: KL, cosine, both tokens, whether broken."""
    broken = ~torch.isfinite(actual).all(-1)
    kl, cosine = (torch.full((len(expected),), torch.nan, dtype=torch.float64) for _ in range(2))
    if not broken.all():
        a, b = expected[~broken], actual[~broken]
        kl[~broken] = torch.from_numpy(divergence(log_probabilities(a), b).kl)
        a, b = (logits - logits.mean(-1, keepdim=True) for logits in (a, b))
        cosine[~broken] = torch.cosine_similarity(a, b).double()
    tokens = (logits.argmax(-1).numpy() for logits in (expected, actual.nan_to_num(-1e30)))
    return kl.numpy(), cosine.numpy(), *tokens, broken.numpy()


def greedy(model: Transformer, native: RunnerModel, prompt: Sequence[int], steps: int) -> Greedy:
    """Continue a prompt greedily by the float model; the artifact reads the same tokens."""
    session, ids = model.new_session(), list(prompt)
    part, start = ids, 0
    with torch.inference_mode():
        for _ in range(steps):
            rows = torch.tensor([len(part) - 1])
            logits = session.read(torch.tensor([part]), start, rows)
            start += len(part)
            part = [int(logits[0].argmax())]
            ids += part
    chosen = np.nan_to_num(native_logits(native, ids[:-1]), nan=-1e30)[len(prompt) - 1 :].argmax(-1)
    expected = ids[len(prompt) :]
    first = next((i for i, (a, b) in enumerate(zip(expected, chosen, strict=False)) if a != b), None)
    return Greedy(tuple(expected), first, None if first is None else int(chosen[first]))


def logit_checks(found: ComparedPositions, limits: Limits) -> Iterator[Check]:
    """Check whether every number is finite, and mean KL, agreement and cosine are within `limits`."""
    count = int(found.broken.sum())
    yield check("finite logits", not count, f"{len(found.kl) - count} of {len(found.kl)} positions",
                "all", f"{count} positions have NaN or infinite logits")  # fmt: skip
    kl = found.finite()
    if not len(kl):
        return
    mean = float(kl.mean())
    said = f"{mean:.3g} nats"
    yield check("mean KL", mean <= limits.mean_kl, said, f"at most {limits.mean_kl:.3g}",
                f"{said}, at most {limits.mean_kl:.3g}",
                f"median {np.median(kl):.3g}, 99th percentile {np.percentile(kl, 99):.3g}, "
                f"largest {kl.max():.3g}")  # fmt: skip
    same = float((found.expected == found.actual)[~found.broken].mean())
    yield check("top-1 agreement", same >= limits.top1, f"{100 * same:.1f} %",
                f"at least {100 * limits.top1:.1f} %")  # fmt: skip
    cosine = found.cosine[~found.broken]
    yield check("mean cosine of the logits", float(cosine.mean()) >= limits.cosine,
                f"{cosine.mean():.5f}", f"at least {limits.cosine:.5f}",
                note=f"lowest {cosine.min():.5f}")  # fmt: skip
