"""What the command line asks of one model."""

from dataclasses import dataclass
from pathlib import Path

from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import LOWBIT


@dataclass(frozen=True)
class ModelRequest:
    """Which model, and what it is to become."""

    model: str
    recipe: Recipe = Recipe()
    checkpoint: Path | None = None
    tokenizer: Path | None = None
    dtype: str | None = None
    max_seq_length: int | None = None
    delegate: str = LOWBIT
    cache_dtype: str | None = None  # None: float32 for unquantized float32 models, else float16
    fit: str | None = None  # a budget, for quality/budget.py
    # Texts; None in it, or nothing at all: what the model writes.
    calibrate: tuple[Path | None, ...] = ()
    calibration_tokens: int | None = None
    work_folder: Path = Path(".")  # where an unfinished calibration is kept
