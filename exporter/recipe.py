"""Quantization recipes: their JSON, and the table of what each backend runs.

A recipe is what `--quantize` takes, with the keys the field uses (torchchat's `--quantize`):

    {"executor": {"accelerator": "cpu"}, "precision": {"dtype": "bf16"},
     "linear:a8w4dq": {"groupsize": 32}, "embedding": {"bitwidth": 4, "groupsize": 32}}
"""

import json
from dataclasses import dataclass
from pathlib import Path

EXECUTORCH, AOTI = "executorch", "aoti"
BACKENDS = (EXECUTORCH, AOTI)

DTYPES = {
    "fp32": "float32", "float32": "float32", "float": "float32",
    "fp16": "float16", "float16": "float16", "half": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16",
}  # fmt: skip
ACCELERATORS = ("fast", "cpu", "cuda", "mps")
RECIPE_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Support:
    """One scheme: its bit widths, the backends that run it, and what a reader should know."""

    key: str
    bitwidths: tuple[int, ...]
    backends: tuple[str, ...]
    note: str


# The one table: `--help`, README and every refusal are made from it.
SUPPORT = (
    Support("none", (32, 16), BACKENDS, "fp32, bf16 or fp16 weights"),
    Support("linear:int8", (8,), (AOTI,), "weights only, groupsize 0 = channelwise"),
    Support("linear:int4", (4,), (AOTI,), "weights only; fast with bf16, slow otherwise"),
    Support("linear:a8w4dq", (4,), BACKENDS, "int8 activations a token; XNNPACK in a .pte"),
    Support("embedding", (4, 8), BACKENDS, "groupsize 0 = one scale a row"),
)
LINEAR_KEYS = tuple(entry.key for entry in SUPPORT if entry.key.startswith("linear:"))
EMBEDDING_BITWIDTHS = next(entry.bitwidths for entry in SUPPORT if entry.key == "embedding")
NOT_YET = ("linear:a8wxdq", "embedding:wx", "linear:afpwx")
SHORT_NOT_YET = ("q8", "q6", "q5", "q4", "q3", "q2")


@dataclass(frozen=True)
class LinearScheme:
    key: str  # "linear:int8" | "linear:int4" | "linear:a8w4dq"
    groupsize: int  # 0 = one scale an output channel


@dataclass(frozen=True)
class EmbeddingScheme:
    bitwidth: int
    groupsize: int  # 0 = one scale a row


@dataclass(frozen=True)
class Recipe:
    linear: LinearScheme | None = None
    embedding: EmbeddingScheme | None = None
    accelerator: str | None = None
    dtype: str | None = None  # as written: "fp32", "bf16", "fast", ...

    def is_quantized(self) -> bool:
        return self.linear is not None or self.embedding is not None

    def to_json(self) -> str:
        """The recipe as JSON that `parse_recipe` accepts."""
        parts: dict[str, dict] = {}
        if self.accelerator is not None:
            parts["executor"] = {"accelerator": self.accelerator}
        if self.dtype is not None:
            parts["precision"] = {"dtype": self.dtype}
        if self.linear is not None:
            parts[self.linear.key] = {"groupsize": self.linear.groupsize}
        if self.embedding is not None:
            parts["embedding"] = {
                "bitwidth": self.embedding.bitwidth,
                "groupsize": self.embedding.groupsize,
            }
        return json.dumps(parts)


def parse_recipe(source: str | None) -> Recipe:
    """A recipe from JSON text, a JSON file, or the name of a ready one (`mobile`, `pi5.json`).

    Raises ValueError that names the key or value and what would be accepted.
    """
    if source is None:
        return Recipe()
    parts = _read(source)
    linear = embedding = accelerator = dtype = None
    for key, options in parts.items():
        if not isinstance(options, dict):
            raise ValueError(f'recipe key "{key}" needs an object of options, not {options!r}')
        if key == "executor":
            accelerator = _one_of(key, options, "accelerator", ACCELERATORS)
        elif key == "precision":
            dtype = _one_of(key, options, "dtype", ("fast", "fast16", *DTYPES))
        elif key in LINEAR_KEYS:
            if linear is not None:
                raise ValueError(f'a recipe has one linear scheme: drop "{linear.key}" or "{key}"')
            linear = LinearScheme(key, _groupsize(key, options, 0 if key == "linear:int8" else 128))
            if linear.groupsize == 0 and key != "linear:int8":
                raise ValueError(f'"{key}" is groupwise: give a groupsize of 32, 64, 128 or 256')
        elif key == "embedding":
            bitwidth = options.get("bitwidth", 8)
            if bitwidth not in EMBEDDING_BITWIDTHS:
                raise ValueError(f'"embedding" takes bitwidth 4 or 8, not {bitwidth!r}')
            embedding = EmbeddingScheme(bitwidth, _groupsize(key, options, 0, "bitwidth"))
        elif key in NOT_YET:
            raise ValueError(f'"{key}" is not in this version; use one of {_scheme_names()}')
        else:
            raise ValueError(
                f'unknown recipe key "{key}"; use executor, precision or one of {_scheme_names()}'
            )
    return Recipe(linear, embedding, accelerator, dtype)


def check_supported(recipe: Recipe, backends: tuple[str, ...], dtype: str) -> None:
    """Raise ValueError when one of `backends` cannot run the recipe, naming those that can."""
    if EXECUTORCH in backends and recipe.is_quantized() and dtype != "float32":
        raise ValueError(
            f"a quantized .pte computes in fp32, not {dtype}: use --dtype fp32 (and drop "
            '"precision" from the recipe), or ask for --output-aoti-package'
        )
    used = [recipe.linear.key] if recipe.linear else []
    used += ["embedding"] if recipe.embedding else []
    for key in used:
        support = next(entry for entry in SUPPORT if entry.key == key)
        for backend in backends:
            if backend not in support.backends:
                raise ValueError(
                    f'"{key}" does not run on {backend}; it runs on '
                    f"{' and '.join(support.backends)}: ask for that output, or another scheme"
                )


def slow_paths(recipe: Recipe, backends: tuple[str, ...], dtype: str) -> list[str]:
    """A line for each part of the recipe that runs, but slowly."""
    if AOTI in backends and recipe.linear and recipe.linear.key == "linear:int4":
        if dtype != "bfloat16":
            return [f"linear:int4 is slow in {dtype}: torch has a fast kernel for --dtype bf16 only"]
    return []


def resolve_dtype(flag: str | None, recipe: Recipe, backends: tuple[str, ...]) -> str:
    """The dtype's torch name: the recipe's word over the flag's, and fp32 where neither speaks.

    `fast16` is bfloat16; `fast` too, but float32 where ExecuTorch takes part.
    """
    word = recipe.dtype or flag or "fp32"
    if word == "fast":
        return "float32" if EXECUTORCH in backends else "bfloat16"
    return "bfloat16" if word == "fast16" else DTYPES[word]


def resolve_device(flag: str | None, recipe: Recipe) -> str:
    """The device to export for. Raises ValueError for those that are not built yet."""
    word = recipe.accelerator or flag or "cpu"
    if word in ("cuda", "mps"):
        if recipe.accelerator is None:
            remedy = f"--device {word}: this version exports for the CPU only; use --device cpu"
        else:
            remedy = (
                f'the recipe asks for {word}, and this version exports for the CPU only: '
                'drop "executor" from the recipe'
            )
        raise ValueError(remedy)
    return "cpu"


def support_table() -> str:
    """The support table as Markdown."""
    rows = ["| scheme | bits | ExecuTorch | AOTInductor | note |", "|---|---|---|---|---|"]
    for entry in SUPPORT:
        bits = ", ".join(str(width) for width in entry.bitwidths)
        marks = ["yes" if backend in entry.backends else "no" for backend in BACKENDS]
        rows.append(f"| `{entry.key}` | {bits} | {marks[0]} | {marks[1]} | {entry.note} |")
    return "\n".join(rows)


def _scheme_names() -> str:
    return ", ".join(entry.key for entry in SUPPORT if entry.key != "none")


def _read(source: str) -> dict:
    text, origin = source, "--quantize"
    if source in SHORT_NOT_YET:
        raise ValueError(f"--quantize {source} is not in this version; use one of {_scheme_names()}")
    if not source.lstrip().startswith("{"):
        ready = RECIPE_FOLDER / f"{source.removesuffix('.json')}.json"
        path = Path(source) if Path(source).is_file() else ready
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in RECIPE_FOLDER.glob("*.json")))
            raise ValueError(
                f"--quantize {source}: no such file; give JSON text, a JSON file, "
                f"or a ready recipe ({names})"
            )
        try:
            text, origin = path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 text; give a JSON file") from None
    try:
        parts = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{origin}: not valid JSON ({error}); correct it") from None
    if not isinstance(parts, dict):
        raise ValueError(f"{origin}: a recipe is a JSON object, not {type(parts).__name__}")
    return parts


def _one_of(key: str, options: dict, name: str, accepted: tuple[str, ...]) -> str:
    _no_others(key, options, (name,))
    value = options.get(name)
    if value not in accepted:
        raise ValueError(f'"{key}" takes {name} {"|".join(accepted)}, not {value!r}')
    return value


def _groupsize(key: str, options: dict, default: int, *others: str) -> int:
    _no_others(key, options, ("groupsize", *others))
    groupsize = options.get("groupsize", default)
    if groupsize is None:
        groupsize = 0
    valid = isinstance(groupsize, int) and not isinstance(groupsize, bool)
    if not valid or groupsize < 0 or groupsize % 32:
        raise ValueError(f'"{key}" takes a groupsize that is a multiple of 32, not {groupsize!r}')
    return groupsize


def _no_others(key: str, options: dict, known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise ValueError(f'"{key}" has no option "{name}"; it takes {", ".join(known)}')
