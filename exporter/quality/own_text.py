"""Let the float model write text, kept on disk as it grows."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.lowbit.weights import NOT_FINITE
from exporter.model.decoder import Transformer
from exporter.quality.sampling import BatchDecoder
from exporter.util.files import written_whole
from exporter.util.progress import Progress, note

if TYPE_CHECKING:
    from exporter.tokenizer.tokenizer import Tokenizer

AT_ONCE = 136  # windows whose caches are held
STEPS = 32  # positions between lines of progress, and between one state on disk and the next
TEXT_SEED = 1
NOTHING = -1  # where no token is yet


class Written(NamedTuple):
    """Text that is being written: `tokens` int64 [B, T], NOTHING where none is yet, and the state of the
    generator that goes on."""

    tokens: Tensor
    generator: Tensor


@torch.no_grad()
def own_text(
    model: Transformer, tokenizer: "Tokenizer", count: int, length: int, kept: Path | None
) -> Tensor:
    """Sample `count` windows [B, length] at temperature 1 from a fixed seed.

    Each begins with the token that begins a text, or with one drawn from all. `kept`: where they are kept,
    finished or not, and read again by the next run, which goes on where the last one was.
    Raises ValueError when the model computes values that are not finite, and OSError with the remedy when
    the disk is full.
    """
    generator = torch.Generator().manual_seed(TEXT_SEED)
    tokens = torch.full((count, length), NOTHING)
    found = None if kept is None else read_kept_text(kept)
    if found is not None and _alike(found, Written(tokens, generator.get_state())):
        tokens = found.tokens
        generator.set_state(found.generator)
        note(f"  the model's own text as {kept} has it: {_done(tokens)} of {tokens.numel()} tokens")
    progress = Progress(tokens.numel(), _done(tokens))

    def after_some() -> None:
        done = _done(tokens)
        note(f"  writing calibration text: {done} of {progress.total} tokens, {progress.left(done)}")
        if kept is not None:
            keep_text(kept, Written(tokens, generator.get_state()))

    for part in tokens.split(AT_ONCE):
        if _done(part) < part.numel():
            for _ in _write(model, tokenizer, part, generator):
                after_some()
    return tokens


def _alike(a: Written, b: Written) -> bool:
    return all(x.shape == y.shape and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def _done(tokens: Tensor) -> int:
    return int((tokens != NOTHING).sum())


def _write(model: Transformer, tokenizer: "Tokenizer", tokens_BT: Tensor, generator: torch.Generator):
    """Write what is missing, position after position; yields after every few, and at the end."""
    B, T = tokens_BT.shape
    vocabulary = min(tokenizer.n_pieces, model.config.vocab_size)
    written = _done(tokens_BT[0])
    if not written:
        if tokenizer.bos_id is not None:
            tokens_BT[:, 0] = tokenizer.bos_id
        else:
            tokens_BT[:, 0] = torch.randint(vocabulary, (B,), generator=generator)
        written = 1
    decoder = BatchDecoder(model, B, T)
    decoder.read(tokens_BT[:, : written - 1])
    for t in range(written, T):
        probabilities = F.softmax(decoder.step(tokens_BT[:, t - 1])[:, :vocabulary], dim=-1)
        if not bool(probabilities.isfinite().all()):
            raise ValueError(f"the model's logits are not finite: {NOT_FINITE}")
        tokens_BT[:, t] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        if t % STEPS == 0:
            yield
    yield


def keep_text(path: Path, written: Written) -> None:
    """Write the text to `path`, whole or not at all. Raises OSError with the remedy when the disk is full."""
    with written_whole(path) as part:
        save_file(written._asdict(), part)


def read_kept_text(path: Path) -> Written | None:
    """Read what `keep_text` kept; None where there is nothing that can be read."""
    try:
        return Written(**load_file(path))
    except (OSError, ValueError, TypeError, SafetensorError):
        return None
