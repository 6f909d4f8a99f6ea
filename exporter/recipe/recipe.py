"""Parse quantization recipes from JSON, and check them against backends and delegates.

A recipe is what `--quantize` takes, with the keys the field uses (torchchat's `--quantize`):

    {"executor": {"accelerator": "cpu"}, "precision": {"dtype": "bf16"},
     "linear:a8w4dq": {"groupsize": 32}, "embedding": {"bitwidth": 4, "groupsize": 32}}
"""

import json
import re
from dataclasses import dataclass

from exporter.formats.packed_header import MOST_PARTS, ROW_BLOCK
from exporter.recipe.methods import PLAIN, ROUNDINGS, parse_method
from exporter.recipe.other_names import quantization_answer
from exporter.recipe.schemes import (
    AOTI,
    BACKENDS,
    DEFAULT_METHOD,
    EXECUTORCH,
    LOWBIT,
    SCALE_DTYPES,
    STOCK,
    SUPPORT,
    EmbeddingScheme,
    LinearScheme,
    Scheme,
    Support,
    scheme_names,
    support_of,
)
from exporter.recipe.source import read_parts
from exporter.util.nearest import hint

DTYPES = {
    "fp32": "float32", "float32": "float32", "float": "float32",
    "fp16": "float16", "float16": "float16", "half": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16",
}  # fmt: skip
ACCELERATORS = ("fast", "cpu", "cuda", "mps")
REPORT_KEY = "fit"  # what a fit predicted and measured: for people
OTHER_KEYS = ("executor", "precision")
SCHEME_KEYS = tuple(entry.key for entry in SUPPORT if entry.key != "none")
# Our kernels take groups of any multiple of 16; the others' want 32.
GROUPSIZE_UNIT, OTHERS_GROUPSIZE_UNIT = 16, 32
OF_LAYER = ("bitwidth_from_row",)  # a table's, and of linear layers those of `layers`
CACHE_DTYPES = {"auto": None, "fp32": "float32", "fp16": "float16", "int8": "int8", "int4": "int4"}


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized; None for what is not."""

    linear: LinearScheme | None = None
    embedding: EmbeddingScheme | None = None
    accelerator: str | None = None
    dtype: str | None = None  # as written: "fp32", "bf16", "fast", ...

    def is_quantized(self) -> bool:
        return bool(self.schemes())

    def schemes(self) -> list[Scheme]:
        return [scheme for scheme in (self.embedding, self.linear) if scheme is not None]

    def to_json(self) -> str:
        """Return the recipe as JSON that `parse_recipe` accepts."""
        parts: dict[str, dict] = {}
        if self.accelerator is not None:
            parts["executor"] = {"accelerator": self.accelerator}
        if self.dtype is not None:
            parts["precision"] = {"dtype": self.dtype}
        for scheme in self.schemes():
            parts[scheme.key] = _said(scheme)
        return json.dumps(parts)


def parse_recipe(source: str | None) -> Recipe:
    """Parse a recipe from JSON text, a JSON file, or the name of a ready one (`mobile`, `pi5.json`).

    Raises ValueError that names the key or value and what would be accepted.
    """
    if source is None:
        return Recipe()
    parts = read_parts(source)
    accelerator = dtype = None
    schemes: dict[type[Scheme], Scheme] = {}
    for key, options in parts.items():
        if not isinstance(options, dict):
            raise ValueError(f'recipe key "{key}" needs an object of options, not {options!r}')
        if key == "executor":
            accelerator = _one_of(key, options, "accelerator", ACCELERATORS)
        elif key == "precision":
            dtype = _one_of(key, options, "dtype", ("fast", "fast16", *DTYPES))
        elif key == REPORT_KEY:
            continue
        elif key in SCHEME_KEYS:
            kind = LinearScheme if key.startswith("linear:") else EmbeddingScheme
            if kind in schemes:
                word = key.split(":")[0]
                raise ValueError(
                    f'a recipe has one {word} scheme: drop "{schemes[kind].key}" or "{key}"'
                )
            schemes[kind] = kind(key, **_options(support_of(key), options))
        elif key == "linear:afpwx":
            raise ValueError(
                f'"{key}" is for Apple\'s MPS, not in this version; use one of {scheme_names()}'
            )
        else:
            raise ValueError(_unknown_key(key))
    return Recipe(schemes.get(LinearScheme), schemes.get(EmbeddingScheme), accelerator, dtype)


def _unknown_key(key: str) -> str:
    answer = quantization_answer(key.split(":")[-1])
    if answer is not None and answer.startswith('{"'):
        return f'recipe key "{key}" is another project\'s: what serves here is {answer}'
    near = hint(key, (*OTHER_KEYS, *SCHEME_KEYS))
    return f'unknown recipe key "{key}"{near}; use {", ".join(OTHER_KEYS)} or one of {scheme_names()}'


def check_supported(recipe: Recipe, backends: tuple[str, ...], dtype: str, delegate: str) -> None:
    """Raise ValueError when `delegate` cannot run the recipe on one of `backends`, naming those
    that can."""
    keys = [recipe.linear.key if recipe.linear else "none"]
    keys += [recipe.embedding.key] if recipe.embedding else []
    for support in map(support_of, keys):
        for backend in backends:
            if delegate not in support.delegates(backend):
                raise ValueError(_refusal(support, backend, delegate))
    if delegate == LOWBIT:
        return
    for scheme in recipe.schemes():
        if scheme.groupsize % OTHERS_GROUPSIZE_UNIT:
            raise ValueError(
                f'"{scheme.key}" with --delegate {delegate} takes a groupsize that is a multiple '
                f"of {OTHERS_GROUPSIZE_UNIT}, not {scheme.groupsize}: change it, or use "
                f"--delegate {LOWBIT}"
            )
    if EXECUTORCH in backends and recipe.is_quantized() and dtype != "float32":
        raise ValueError(
            f"a quantized .pte on {delegate} kernels computes in fp32, not {dtype}: use "
            f'--dtype fp32 (and drop "precision" from the recipe), or --delegate {LOWBIT}'
        )


def slow_paths(recipe: Recipe, backends: tuple[str, ...], dtype: str, delegate: str) -> list[str]:
    """Return a line for each part of the recipe that runs, but slowly or to no use."""
    lines = []
    linear = recipe.linear
    key = linear.key if linear else "none"
    if delegate == STOCK and AOTI in backends:
        if key == "linear:int4" and dtype != "bfloat16":
            lines.append(
                f"linear:int4 is slow in {dtype} on stock kernels: they are fast with --dtype "
                f"bf16 only; --delegate {LOWBIT} is fast with any"
            )
        if key == "linear:a8w4dq":
            lines.append(
                "linear:a8w4dq is slow on AOTInductor's stock kernels, which multiply it unfused; "
                f"--delegate {LOWBIT} is fast"
            )
    return lines


def resolve_dtype(flag: str | None, recipe: Recipe, backends: tuple[str, ...]) -> str:
    """Choose the dtype, by torch's name: the recipe's word over the flag's, and fp32 where neither speaks.

    `fast16` is bfloat16; `fast` too, but float32 where ExecuTorch takes part.
    """
    word = recipe.dtype or flag or "fp32"
    if word == "fast":
        return "float32" if EXECUTORCH in backends else "bfloat16"
    return "bfloat16" if word == "fast16" else DTYPES[word]


def resolve_device(flag: str | None, recipe: Recipe) -> str:
    """Choose the device to export for. Raises ValueError for those that are not built yet."""
    word = recipe.accelerator or flag or "cpu"
    if word in ("cuda", "mps"):
        if recipe.accelerator is None:
            remedy = f"--device {word}: this version exports for the CPU only; use --device cpu"
        else:
            remedy = (
                f"the recipe asks for {word}, and this version exports for the CPU only: "
                'drop "executor" from the recipe'
            )
        raise ValueError(remedy)
    return "cpu"


def _refusal(support: Support, backend: str, delegate: str) -> str:
    what = "unquantized linear layers do" if support.key == "none" else f'"{support.key}" does'
    can = "; ".join(
        f"{other}: --delegate {' or '.join(support.delegates(other))}" for other in BACKENDS
    )
    return (
        f"{what} not run on {backend} with --delegate {delegate}, but on {can}. "
        "Ask for one of these, or another scheme"
    )


def _one_of(key: str, options: dict, name: str, accepted: tuple[str, ...]) -> str:
    _no_others(key, options, (name,))
    value = options.get(name)
    if value not in accepted:
        near = hint(value, accepted) if isinstance(value, str) else ""
        raise ValueError(f'"{key}" takes {name} {"|".join(accepted)}, not {value!r}{near}')
    return value


def _options(support: Support, options: dict, of_layer: tuple[str, ...] = ()) -> dict:
    """Read the fields of a scheme; `of_layer` are options that only a layer's has.

    Raises ValueError that names the value and what is taken.
    """
    if "bitwidth_from_row" in options and "layers" in support.options and not of_layer:
        raise ValueError(
            f'"{support.key}" takes bitwidth_from_row for one matrix: put it under "layers", such as "output"'
        )
    _no_others(support.key, options, (*support.options, *of_layer))
    groupsize = options.get("groupsize", support.default_groupsize)
    if groupsize is None and support.channelwise:
        groupsize = 0
    if type(groupsize) is not int or groupsize < 0 or groupsize % GROUPSIZE_UNIT:
        raise ValueError(
            f'"{support.key}" takes a groupsize that is a multiple of {GROUPSIZE_UNIT}, '
            f"not {groupsize!r}"
        )
    if groupsize == 0 and not support.channelwise:
        raise ValueError(f'"{support.key}" is groupwise: give a groupsize of 32, 64, 128 or 256')
    bitwidth = options.get("bitwidth", support.bitwidths[-1])
    if type(bitwidth) is not int or bitwidth not in support.bitwidths:
        raise ValueError(f'"{support.key}" takes bitwidth {support.bits()}, not {bitwidth!r}')
    zeros = options.get("has_weight_zeros", False)
    if type(zeros) is not bool:
        raise ValueError(f'"{support.key}" takes has_weight_zeros true or false, not {zeros!r}')
    if support.key == "linear:a8wxdq" and bitwidth == 1 and not zeros:
        raise ValueError(
            '"linear:a8wxdq" of 1 bit is nothing but zeros as torchao rounds: use "linear:a8wx", whose '
            "1 bit has the levels -scale and +scale, or give has_weight_zeros true"
        )
    found = {
        "groupsize": groupsize,
        "bitwidth": bitwidth,
        "has_weight_zeros": zeros,
        "method": _method(support.key, options.get("method", DEFAULT_METHOD)),
    }
    if "scale_dtype" in support.options:
        said = {"scale_dtype": options.get("scale_dtype", SCALE_DTYPES[0])}
        found["scale_dtype"] = _one_of(support.key, said, "scale_dtype", SCALE_DTYPES)
    found["bitwidth_from_row"] = _from_rows(support, options, bitwidth)
    if "layers" in support.options:
        found["layers"] = _layers(support, options)
    return found


def _from_rows(support: Support, options: dict, bitwidth: int) -> tuple[tuple[int, int], ...]:
    """Read the rows from which on a weight has other widths, ascending."""
    given = options.get("bitwidth_from_row", {})
    if not isinstance(given, dict):
        raise ValueError(
            f'"{support.key}" takes bitwidth_from_row as an object from rows to widths, not {given!r}'
        )
    if len(given) > MOST_PARTS - 1:
        raise ValueError(
            f'"{support.key}" takes at most {MOST_PARTS - 1} rows in bitwidth_from_row, '
            f"not {len(given)}"
        )
    for row, bits in given.items():
        if not re.fullmatch(r"[1-9][0-9]{0,9}", row) or int(row) % ROW_BLOCK:
            raise ValueError(
                f'"{support.key}" takes rows of bitwidth_from_row that are multiples of '
                f"{ROW_BLOCK}, from {ROW_BLOCK} on, not {row!r}"
            )
        if type(bits) is not int or bits not in support.bitwidths:
            raise ValueError(
                f'"{support.key}" takes bitwidth {support.bits()} from row {row} on, not {bits!r}'
            )
    found = tuple(sorted((int(row), bits) for row, bits in given.items()))
    before = bitwidth
    for row, bits in found:
        if bits == before:
            raise ValueError(
                f'"{support.key}" has {bits} bits before row {row} already: leave that row out of '
                "bitwidth_from_row"
            )
        before = bits
    return found


def _method(key: str, method: object) -> str:
    if not isinstance(method, str):
        raise ValueError(f'"{key}" takes method as text, not {method!r}')
    known = parse_method(method)
    if key.startswith("embedding:") and not known.is_plain():
        raise ValueError(
            f'"{key}" takes method {" or ".join(PLAIN)}, not "{method}"; a table that is also the '
            "output layer is made by the linear scheme's method"
        )
    return method


def _layers(support: Support, options: dict) -> tuple[tuple[str, LinearScheme], ...]:
    """Read what some layers have instead: the scheme's own options, with these changed."""
    layers = options.get("layers", {})
    if not isinstance(layers, dict) or not all(isinstance(o, dict) for o in layers.values()):
        raise ValueError(
            f'"{support.key}" takes layers as an object from names or patterns to options, '
            f"not {layers!r}"
        )
    own = {name: value for name, value in options.items() if name != "layers"}
    around = parse_method(own.get("method", DEFAULT_METHOD))
    known = (*(name for name in support.options if name != "layers"), *OF_LAYER)
    found = []
    for pattern, changed in layers.items():
        where = f"{support.key}, layers, {pattern}"
        _no_others(where, changed, known)
        said = {"method": changed.get("method", around.rounding)}
        rounding = _one_of(where, said, "method", ROUNDINGS)
        said = {**own, **changed, "method": around.rounded_by(rounding)}
        fields = _options(support, said, OF_LAYER)
        found.append((pattern, LinearScheme(support.key, **fields)))
    return tuple(found)


def _said(scheme: Scheme) -> dict:
    """Return the options that give `scheme`, the rare ones only where they are not the default."""
    options = {"bitwidth": scheme.bitwidth, "groupsize": scheme.groupsize}
    if len(support_of(scheme.key).bitwidths) == 1:
        del options["bitwidth"]
    if scheme.has_weight_zeros:
        options["has_weight_zeros"] = True
    if scheme.scale_dtype != SCALE_DTYPES[0]:
        options["scale_dtype"] = scheme.scale_dtype
    if scheme.method != DEFAULT_METHOD:
        options["method"] = scheme.method
    if scheme.bitwidth_from_row:
        options["bitwidth_from_row"] = {str(row): bits for row, bits in scheme.bitwidth_from_row}
    layers = getattr(scheme, "layers", ())
    if layers:
        options["layers"] = {pattern: _said_of_layer(other, scheme) for pattern, other in layers}
    known = (*support_of(scheme.key).options, *OF_LAYER)
    return {name: value for name, value in options.items() if name in known}


def _said_of_layer(scheme: Scheme, around: Scheme) -> dict:
    """Return the options that give `scheme` where those of `around` hold otherwise."""
    options = {name: value for name, value in _said(scheme).items() if name != "method"}
    if scheme.method != around.method:
        options["method"] = parse_method(scheme.method).rounding
    if around.has_weight_zeros and not scheme.has_weight_zeros:
        options["has_weight_zeros"] = False
    if scheme.scale_dtype != around.scale_dtype:
        options["scale_dtype"] = scheme.scale_dtype
    return options


def _no_others(key: str, options: dict, known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise ValueError(
                f'"{key}" has no option "{name}"{hint(name, known)}; it takes {", ".join(known)}'
            )
