"""Get the text that a method looks at: files', what the float model itself writes, or both.

Text sampled from the model stands for what it will see when there is none at hand ("Self-calibration
for language model quantization and pruning", arXiv 2410.17170): in its own languages and formats.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from exporter.model.decoder import Transformer
from exporter.quality.own_text import own_text
from exporter.util import text_file

if TYPE_CHECKING:
    from exporter.tokenizer.tokenizer import Tokenizer

WINDOW, WINDOWS = 512, 96  # 49,152 tokens
SAMPLED_WINDOW, SAMPLED_WINDOWS = 256, 64  # where nothing else is read and no number is asked for
PER_HELD_OUT = 16  # windows to calibrate with for each that is held out


@dataclass(frozen=True)
class Calibration:
    """The text of a calibration: `tokens` int64 [B, T]; `held_out` int64 [H, T], of the same text and not to
    be calibrated with; `digest`, SHA-256 in hex, of `tokens`."""

    tokens: Tensor
    held_out: Tensor

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()


def calibration_of(
    sources: Sequence[Path | None],
    model: Transformer,
    tokenizer: "Tokenizer",
    context: int,
    tokens: int | None = None,
    kept: Path | None = None,
) -> Calibration:
    """Return windows of the files `sources`, the same number of each, rounded up; None: of what `model`
    writes. `tokens`: how many to calibrate with, in whole windows, as far as the files have them. `kept`:
    where what the model wrote is kept, and read again by the next run.

    Raises ValueError or OSError with the remedy for a text that is not UTF-8, or shorter than a window, and
    what `sampled` raises.
    """
    if tuple(sources) == (None,) and tokens is None:
        return sampled(model, tokenizer, context, kept)
    length = min(WINDOW, context)
    windows = WINDOWS if tokens is None else max(1, tokens // length)
    each = -(-(windows + max(1, windows // PER_HELD_OUT)) // len(sources))
    return _split(torch.cat([
        own_text(model, tokenizer, each, length, kept) if path is None
        else _of_file(path, tokenizer, each, length)
        for path in sources
    ]))  # fmt: skip


def _of_file(path: Path, tokenizer: "Tokenizer", most: int, length: int) -> Tensor:
    """Read at most `most` windows [B, length] of a file, spread over it."""
    text = text_file.read_text(path, "--calibrate")
    ids = torch.tensor(tokenizer.encode(text), dtype=torch.int64)
    if len(ids) < length:
        raise ValueError(
            f"--calibrate {path}: the text has {len(ids)} tokens, less than a window of {length}; "
            "give a longer one"
        )
    windows = ids[: len(ids) // length * length].view(-1, length)
    if len(windows) > most:
        windows = windows[torch.linspace(0, len(windows) - 1, most).round().long()]
    return windows


def _split(windows: Tensor) -> Calibration:
    """Hold out every so many windows one; of one window, none."""
    held_out = torch.arange(len(windows)) % (PER_HELD_OUT + 1) == PER_HELD_OUT
    if len(windows) > 1 and not bool(held_out.any()):
        held_out[-1] = True
    return Calibration(windows[~held_out].contiguous(), windows[held_out].contiguous())


def sampled(
    model: Transformer, tokenizer: "Tokenizer", context: int, kept: Path | None = None
) -> Calibration:
    """Let the float model write the text; `kept`, and errors, as `own_text` has them."""
    length = min(SAMPLED_WINDOW, context)
    return _split(own_text(model, tokenizer, SAMPLED_WINDOWS, length, kept))
