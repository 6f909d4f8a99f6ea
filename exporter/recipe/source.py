"""Find a recipe: JSON text, a file, or a ready one by its name."""

from __future__ import annotations

import json
from pathlib import Path

from exporter.recipe.other_names import NOT_QUANTIZED, quantization_answer
from exporter.util.nearest import hint

RECIPE_FOLDER = Path(__file__).parent / "recipes"
# Where torchchat keeps the recipes that are ready ones here; from its own folder, and from others.
TORCHCHAT_FOLDERS = ("config/data", "quant_config", "torchchat/quant_config", "torchchat/config/data")


def ready_recipes() -> str:
    """List the names of the ready recipes."""
    return ", ".join(_ready())


def read_parts(source: str) -> dict:
    """Read the keys and options of `source`, not checked yet.

    Raises ValueError that names `source` and what would be accepted.
    """
    text, origin = source, "--quantize"
    if not source.lstrip().startswith("{"):
        path = _file(source)
        try:
            text, origin = path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 text; give a JSON file") from None
    try:
        parts = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{origin}: not valid JSON ({error}); correct it") from None
    if not isinstance(parts, dict):
        raise ValueError(f"{origin}: a recipe is a JSON object, not {type(parts).__name__}")
    return parts


def _ready() -> list[str]:
    return sorted(file.stem for file in RECIPE_FOLDER.glob("*.json"))


def _file(source: str) -> Path:
    """Find the file that `source` names: one that is there, or a ready recipe's."""
    path, name = Path(source), Path(source).name.removesuffix(".json")
    if path.is_file():
        return path
    if str(path.parent) in (".", *TORCHCHAT_FOLDERS) and name in _ready():
        return RECIPE_FOLDER / f"{name}.json"
    answer = quantization_answer(source)
    if answer == NOT_QUANTIZED:
        raise ValueError(f"--quantize {source}: leave it out, and use --dtype fp32, bf16 or fp16")
    if answer is not None:
        raise ValueError(
            f"--quantize {source} is another project's name: what serves here is --quantize "
            + (f"'{answer}'" if answer.startswith("{") else answer)
        )
    raise ValueError(
        f"--quantize {source}: no such file{hint(name, _ready())}; give JSON text, a JSON file, "
        f"or a ready recipe ({ready_recipes()})"
    )
