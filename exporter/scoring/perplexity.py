"""Measure the perplexity of a text: its windows, their scores, the figures and the progress line.

Disjoint windows are llama.cpp's (`tools/perplexity/perplexity.cpp`): of each window of n tokens the
targets n // 2 + 1 to n - 1 are scored, its first token is replaced by bos where the tokenizer
begins a text with one, special tokens' names in the text are plain text, and a rest shorter than a
window is left out. Sliding windows are those of Hugging Face's guide
"Perplexity of fixed-length models".
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.artifact.runner_interface import RunnerModel, RunnerTokenizer
from exporter.util.progress import Progress

if TYPE_CHECKING:
    import numpy as np

LARGEST_EXPONENT = 700.0  # whose exp float64 holds
SMALLEST_WINDOW = 3  # the smallest with a target


@dataclass(frozen=True)
class Window:
    """Tokens that the model reads from position 0 on; those from `first` on are the targets."""

    tokens: list[int]
    first: int

    @property
    def targets(self) -> int:
        return len(self.tokens) - self.first


@dataclass(frozen=True)
class Score:
    """Sums over the targets so far: negative log-probabilities in nats, and their squares."""

    windows: int = 0
    tokens: int = 0  # run, targets or not
    targets: int = 0
    bytes: int = 0  # of the targets' text
    total: float = 0.0
    squares: float = 0.0
    seconds: float = 0.0

    def plus(self, window: Window, log_probs: "np.ndarray", size: int, seconds: float) -> "Score":
        """Return the sums with a window's `log_probs` [targets], its targets' `size` in bytes, and its time.

        Raises ValueError where a log-probability is not finite.
        """
        nll = -log_probs.astype("float64")
        total = float(nll.sum())
        if not math.isfinite(total):
            raise ValueError(
                f"the model's probabilities in window {self.windows + 1} are not finite: it computes NaN "
                "or infinity; compare it with its checkpoint (python -m exporter verify)"
            )
        return Score(
            self.windows + 1,
            self.tokens + len(window.tokens),
            self.targets + len(nll),
            self.bytes + size,
            self.total + total,
            self.squares + float((nll * nll).sum()),
            self.seconds + seconds,
        )

    @property
    def nll(self) -> float:
        """The mean negative log-probability, in nats a token."""
        return self.total / self.targets

    @property
    def nll_error(self) -> float:
        """The standard error of `nll`; NaN for one target."""
        return standard_error(self.total, self.squares, self.targets)

    @property
    def perplexity(self) -> float:
        return perplexity(self.nll)

    @property
    def perplexity_error(self) -> float:
        """The standard error of `perplexity`, to first order."""
        return self.perplexity * self.nll_error

    @property
    def bits_per_byte(self) -> float:
        return self.total / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else math.nan

    def figures(self) -> dict[str, float | int]:
        """Return the figures for JSON."""
        return {
            "perplexity": self.perplexity,
            "perplexity_error": self.perplexity_error,
            "nll_per_token": self.nll,
            "nll_error": self.nll_error,
            "bits_per_byte": self.bits_per_byte,
            "windows": self.windows,
            "tokens_scored": self.targets,
            "tokens_run": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
        }


def perplexity(nll: float) -> float:
    """Return the perplexity of a mean negative log-probability in nats; infinite where float64 cannot hold
    it."""
    return math.exp(nll) if nll < LARGEST_EXPONENT else math.inf


def standard_error(total: float, squares: float, count: int) -> float:
    """Return the standard error of a mean, from the sums over `count` values and their squares; NaN for fewer
    than two."""
    if count < 2:
        return math.nan
    variance = squares / count - (total / count) ** 2
    return math.sqrt(max(variance, 0.0) / (count - 1))


def text_windows(
    tokenizer: RunnerTokenizer, text: str, window: int, stride: int | None, context: int
) -> list[Window]:
    """Cut `text` into windows: disjoint ones, or sliding by `stride` tokens.

    Raises ValueError for a window that does not fit the context, and a text shorter than one.
    """
    if window > context:
        raise ValueError(
            f"--window {window} is longer than the model's context of {context}: use --window "
            f"{context}, or give --max-seq-length {window} (to a program on stock kernels, at export)"
        )
    if window < SMALLEST_WINDOW:
        raise ValueError(f"--window {window} has no targets: use at least {SMALLEST_WINDOW}")
    if stride is not None and not 1 <= stride < window:
        raise ValueError(f"--stride {stride} is outside 1..{window - 1}, below the --window")
    ids = tokenizer.encode(text, add_bos=tokenizer.add_bos, parse_special=False)
    if len(ids) < window:
        raise ValueError(
            f"the text has {len(ids)} tokens, fewer than one window of {window}: give a longer "
            f"text, or --window {len(ids)} or less"
        )
    if stride is not None:
        return sliding_windows(ids, window, stride)
    return disjoint_windows(ids, window, tokenizer.bos_id if tokenizer.add_bos else None)


def disjoint_windows(ids: Sequence[int], window: int, bos_id: int | None) -> list[Window]:
    """Cut `ids` into windows of `window` ids whose second halves are the targets; `bos_id` begins each."""
    first = window // 2 + 1
    windows = []
    for start in range(0, len(ids) - window + 1, window):
        tokens = list(ids[start : start + window])
        if bos_id is not None:
            tokens[0] = bos_id
        windows.append(Window(tokens, first))
    return windows


def sliding_windows(ids: Sequence[int], window: int, stride: int) -> list[Window]:
    """Cut `ids` into windows `stride` ids apart, in which what no earlier one held is scored: every id but
    the first is a target once."""
    windows, scored = [], 1
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        windows.append(Window(list(ids[start:end]), scored - start))
        scored = end
        if end == len(ids):
            break
    return windows


def target_bytes(tokenizer: RunnerTokenizer, window: Window) -> int:
    """Count the UTF-8 bytes of the targets' text; a character cut by the window's edges may count as one more
    or less."""
    before = tokenizer.decode(window.tokens[: window.first])
    return len(tokenizer.decode(window.tokens).encode()) - len(before.encode())


def scores(model: RunnerModel, windows: Sequence[Window]) -> Iterator[Score]:
    """Score the windows, and yield the sums after each."""
    score = Score()
    for window in windows:
        start = time.monotonic()
        log_probs = model.score(window.tokens, window.first)
        seconds = time.monotonic() - start
        score = score.plus(window, log_probs, target_bytes(model.tokenizer, window), seconds)
        yield score


def progress_line(score: Score, progress: Progress) -> str:
    """Say how far a text is scored, `progress` counting its windows, and what was found so far."""
    speed = score.tokens / progress.elapsed if progress.elapsed else 0
    return (
        f"window {score.windows} of {progress.total}: perplexity {score.perplexity:.4f}, "
        f"{speed:.0f} tokens/s, {progress.left(score.windows)}"
    )
