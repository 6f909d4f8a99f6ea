"""List the quantization schemes, and what runs them where, in one table."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from exporter.recipe.methods import ROUNDINGS, Method, parse_method

EXECUTORCH, AOTI = "executorch", "aoti"
BACKENDS = (EXECUTORCH, AOTI)

# Whose kernels run the model: the project's own; XNNPACK's; those that PyTorch and ExecuTorch
# bring along.
LOWBIT, XNNPACK, STOCK = DELEGATES = ("lowbit", "xnnpack", "stock")

DEFAULT_METHOD = ROUNDINGS[0]
# How packed weights store their groups' scales; the first where a recipe does not say.
SCALE_DTYPES = ("float16", "int8")
# Their activations are quantized as torchao does it, with a scale a token.
TOKEN_SCALE_SCHEMES = ("linear:a8w4dq", "linear:a8wxdq")
WEIGHT_ONLY_SCHEMES = ("linear:int4", "linear:int8")  # their activations stay float


@dataclass(frozen=True)
class Scheme:
    """How one kind of layer is quantized."""

    key: str
    groupsize: int  # 0 = one group an output channel, or a row
    bitwidth: int
    has_weight_zeros: bool = False
    method: str = DEFAULT_METHOD  # words of recipe/methods.py
    scale_dtype: str = SCALE_DTYPES[0]
    # (row, bits): from that row on, the weight's rows have `bits` instead; rows ascending.
    bitwidth_from_row: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class LinearScheme(Scheme):
    """How the linear layers are quantized. `layers`: patterns of names of packed matrices (`layers.0.wqkv`,
    `layers.*.down`, `output`), and what those have instead; the first that fits counts."""

    layers: tuple[tuple[str, "LinearScheme"], ...] = ()

    def for_layer(self, name: str) -> "LinearScheme":
        """Return the scheme of the packed matrix `name`."""
        return next((scheme for pattern, scheme in self.layers if fnmatchcase(name, pattern)), self)

    def plain(self) -> "LinearScheme":
        """Return this format, rounded to nearest."""
        return replace(self, method=DEFAULT_METHOD, layers=())

    def methods(self) -> list[Method]:
        """Return its own method, and those of the layers that have others."""
        return [parse_method(scheme.method) for scheme in (self, *(s for _, s in self.layers))]

    def needs_calibration(self) -> bool:
        return any(method.needs_calibration() for method in self.methods())


class EmbeddingScheme(Scheme):
    """How the embedding is quantized."""


@dataclass(frozen=True)
class Support:
    """One scheme's row: what a recipe may say of it, and the delegates that run it."""

    key: str
    bitwidths: tuple[int, ...]  # the last one where a recipe does not say
    options: tuple[str, ...]
    default_groupsize: int
    channelwise: bool  # takes groupsize 0
    executorch: tuple[str, ...]
    aoti: tuple[str, ...]
    note: str

    def delegates(self, backend: str) -> tuple[str, ...]:
        return self.executorch if backend == EXECUTORCH else self.aoti

    def bits(self) -> str:
        """Say which bit widths are taken: `4`, `4 or 8` or `1 to 8`."""
        if len(self.bitwidths) > 2:
            return f"{self.bitwidths[0]} to {self.bitwidths[-1]}"
        return " or ".join(str(width) for width in self.bitwidths)


_ANY_BITS = tuple(range(1, 9))
_BITS = ("bitwidth", "groupsize")
_ZEROS = (*_BITS, "has_weight_zeros")
_NATIVE = (*_ZEROS, "scale_dtype", "method")
_LAYERED = (*_NATIVE, "layers")
_TABLE = (*_NATIVE, "bitwidth_from_row")
_OURS, _EITHER = (LOWBIT,), (LOWBIT, STOCK)

# `--help`, README and every refusal are made from it.
SUPPORT = (
    Support("none", (16, 32), (), 0, True, _EITHER, _EITHER, "fp32, bf16 or fp16 weights"),
    Support("linear:a8wx", _ANY_BITS, _LAYERED, 32, False, _OURS, _OURS,
            "int8 activations a group; what q8 to q1 use"),
    Support("linear:a8wxdq", _ANY_BITS, _ZEROS, 32, True, _OURS, _OURS,
            "int8 activations a token, torchao's numbers; 1 bit with zeros only"),
    Support("linear:a8w4dq", (4,), _BITS, 128, False, (LOWBIT, XNNPACK), _EITHER,
            "`linear:a8wxdq` at 4 bits, without zero points"),
    Support("linear:int4", (4,), _BITS, 128, False, _OURS, _EITHER,
            "weights only; stock is fast with bf16, slow otherwise"),
    Support("linear:int8", (8,), _BITS, 0, True, _OURS, _EITHER, "weights only"),
    Support("embedding:wx", _ANY_BITS, _TABLE, 32, True, _OURS, _OURS,
            "one table with a tied output of the same format"),
    Support("embedding", (4, 8), _BITS, 0, True, (LOWBIT, XNNPACK, STOCK), _EITHER,
            "torchao's numbers"),
)  # fmt: skip


def support_of(key: str) -> Support:
    """Find the row of a scheme."""
    return next(entry for entry in SUPPORT if entry.key == key)


def scheme_names() -> str:
    """List the keys of the schemes, with commas between."""
    return ", ".join(entry.key for entry in SUPPORT if entry.key != "none")


def support_table() -> str:
    """Return the support table as Markdown."""
    rows = ["| scheme | bits | ExecuTorch | AOTInductor | note |", "|---|---|---|---|---|"]
    for entry in SUPPORT:
        places = " | ".join(", ".join(entry.delegates(backend)) for backend in BACKENDS)
        rows.append(f"| `{entry.key}` | {entry.bits()} | {places} | {entry.note} |")
    return "\n".join(rows)
