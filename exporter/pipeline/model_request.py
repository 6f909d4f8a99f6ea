"""Say what the command line asks of one model: which one, what it becomes, and how that is calibrated."""

from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint.adapter_source import AdapterSource
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import LOWBIT


@dataclass(frozen=True)
class ModelSource:
    """Which model: an alias, a path or a hub id, what replaces its own files, and the adapters merged into
    it."""

    model: str
    checkpoint: Path | None = None  # with it, `model` is only a name
    tokenizer: Path | None = None
    adapters: tuple[AdapterSource, ...] = ()


@dataclass(frozen=True)
class ModelForm:
    """What a model becomes; None where the default depends on the rest."""

    recipe: Recipe = Recipe()
    dtype: str | None = None
    max_seq_length: int | None = None
    delegate: str = LOWBIT
    cache_dtype: str | None = None  # None: float32 for unquantized float32 models, else float16
    fit: str | None = None  # a budget, for quality/budget.py


@dataclass(frozen=True)
class CalibrationRequest:
    """How a method that looks at text gets it: `texts` are files, or None for text that the model writes."""

    texts: tuple[Path | None, ...] = ()
    tokens: int | None = None
    work_folder: Path = Path(".")  # where an unfinished calibration is kept

    def sources(self) -> tuple[Path | None, ...]:
        """Return the texts; where none was asked for, that the model writes one."""
        return self.texts or (None,)


@dataclass(frozen=True)
class ModelRequest:
    """One model, what it becomes, and how that is calibrated."""

    source: ModelSource
    form: ModelForm = ModelForm()
    calibration: CalibrationRequest = CalibrationRequest()
