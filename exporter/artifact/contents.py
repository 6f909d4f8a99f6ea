"""Any artifact, read without running it: metadata, sizes, weights where they lie, operators.

Neither torch nor ExecuTorch is imported. The file is mapped: a weight's bytes are a view, and what
nobody looks at is not read. Weights have the same canonical names in every format: those of
`model/matrices.py`, and `table`, `head`; a bias has `.bias` behind its matrix's name.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.formats.packed_header import PackedMatrix, is_packed, read_matrix
from exporter.model.matrices import ROUTER

PTE, PT2, SO = "pte", "pt2", "so"

LINEAR_PART, EMBEDDING_PART, OTHER_PART = "linear weights", "embedding", "other constants"
CODE_PART, DELEGATES_PART = "code", "delegates' weights and code"
TOKENIZER_PART, METADATA_PART = "tokenizer", "metadata, padding and the rest"
PARTS = (LINEAR_PART, EMBEDDING_PART, OTHER_PART, DELEGATES_PART, CODE_PART, TOKENIZER_PART, METADATA_PART)

EXPERTS_KEY, CHOSEN_KEY = "n_experts", "n_experts_chosen"  # of a layer's feed-forwards, those of a token
UNNAMED = "constant "  # before a number, of what has no name
SHARED = ("output", "table")  # of the one tensor that is both
_SHOWN = 60  # characters of a value that is wrong


@dataclass(frozen=True)
class StoredTensor:
    """A constant of the program: `names` are canonical, several where it is used as several.

    `data` is a view of the mapped file, which begins at `offset` of it; `packed` are the headers
    of a matrix that `kernels/layout.h` lays out, whose own `shape` is that of its bytes.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    data: memoryview = field(repr=False, compare=False)
    offset: int
    packed: PackedMatrix | None

    @property
    def name(self) -> str:
        return self.names[0]

    def part(self) -> str:
        """Return the part of the file's size that it counts to; a shared table is the embedding's."""
        if "table" in self.names:
            return EMBEDDING_PART
        return OTHER_PART if self.packed is None else LINEAR_PART


@dataclass(frozen=True)
class Artifact:
    """What a file holds. `sizes` are bytes by part of PARTS and add up to `size`, which for a
    `.so` has the metadata beside it. `operators` and `delegates` map names to the number of calls,
    None where the format does not tell. `planned_bytes` are all that ExecuTorch plans, caches of stock
    operators included; None where unknown. `unknown` says in words what
    could not be told."""

    path: Path
    kind: str
    size: int
    metadata: Mapping[str, str]
    tokenizer: bytes = field(repr=False)
    sizes: Mapping[str, int]
    weights: tuple[StoredTensor, ...] = field(repr=False)
    operators: Mapping[str, int | None]
    delegates: Mapping[str, int]
    targets: tuple[Mapping, ...]
    token_scales: bool
    cache_dtype: str | None
    planned_bytes: int | None
    unknown: tuple[str, ...]

    def number(self, key: str) -> int | None:
        """Return the metadata's whole number `key`, such as `context_length`; None where there is none."""
        return whole_number(self.metadata, key)

    @property
    def context_length(self) -> int | None:
        return self.number("context_length")

    @property
    def model_name(self) -> str | None:
        return self.metadata.get("model_name")

    @property
    def delegate(self) -> str | None:
        return self.metadata.get("delegate")

    @property
    def dtype(self) -> str | None:
        """The type of unquantized weights."""
        return self.metadata.get("dtype")

    def weight(self, name: str) -> StoredTensor:
        """Return the weight of that canonical name. Raises KeyError where there is none."""
        for tensor in self.weights:
            if name in tensor.names:
                return tensor
        raise KeyError(name)

    def read_share(self, tensor: StoredTensor) -> float:
        """Return the part of a matrix that one token reads: of experts', those that it chooses."""
        layer, _, matrix = tensor.names[0].rpartition(".")
        of_experts = matrix in ("gate_up", "up", "down")
        if not of_experts or all(f"{layer}.{ROUTER}" not in other.names for other in self.weights):
            return 1.0
        count, chosen = self.number(EXPERTS_KEY), self.number(CHOSEN_KEY)
        return chosen / count if count and chosen else 1.0

    def read_bytes(self) -> int | None:
        """Return the bytes of matrices that a decoded token reads, the output among them, even where it is
        the embedding's table too; of experts, those that it chooses. None where the matrices are not ours."""
        packed = self.packed()
        if not packed:
            return None
        return round(sum(
            len(tensor.data) * self.read_share(tensor)
            for tensor in packed
            if tensor.part() != EMBEDDING_PART or "output" in tensor.names
        ))  # fmt: skip

    def packed(self) -> list[StoredTensor]:
        """Return the packed weights in the program's order."""
        return [tensor for tensor in self.weights if tensor.packed is not None]

    def weight_count(self) -> int | None:
        """Count the stored weights of matrices; None where they are not ours and cannot be counted."""
        return sum(t.packed.rows * t.packed.columns for t in self.packed()) or None

    def linear_bits(self) -> float | None:
        """Return the bits a weight that the linear layers take, scales and zeros included; all packed weights
        but the table count."""
        linear = [t for t in self.packed() if t.part() == LINEAR_PART]
        count = sum(t.packed.rows * t.packed.columns for t in linear)
        return 8 * sum(len(t.data) for t in linear) / count if count else None


class Damaged(Exception):
    """A file that cannot be read: the text says what is wrong, without the file's name."""


def stored(
    names: tuple[str, ...], dtype: str, shape: tuple[int, ...], data: memoryview, offset: int
) -> StoredTensor:
    """Make a StoredTensor, its header read where it is a packed weight: bytes that have a name are.

    Raises Damaged when a weight is none, or its header is wrong.
    """
    header = None
    if (dtype == "uint8" and not names[0].startswith(UNNAMED)) or is_packed(data):
        try:
            header = read_matrix(data, names[0])
        except ValueError as error:
            raise Damaged(str(error)) from None
    return StoredTensor(names, dtype, shape, data, offset, header)


def canonical(name: str) -> str:
    """Turn `model.layers.3.wqkv.weight`, as the program names it, into `layers.3.wqkv`."""
    return re.sub(r"\.weight$", "", re.sub(r"^model\.", "", name))


def all_names(name: str, of_program: Collection[str]) -> tuple[str, ...]:
    """Return the canonical names of a constant; of a program with one table for embedding and output,
    both."""
    shared = name in SHARED and not set(SHARED) <= set(of_program)
    return SHARED if shared else (name,)


def summed(size: int, parts: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes `parts` in the order of PARTS, without empty ones; what is left of `size` is the
    rest."""
    rest = size - sum(parts.values())
    if rest < 0:
        raise Damaged("its parts are larger than the file")
    whole = {**parts, METADATA_PART: parts.get(METADATA_PART, 0) + rest}
    return {part: whole[part] for part in PARTS if whole.get(part)}


def whole_number(metadata: Mapping[str, str], key: str) -> int | None:
    """Return a whole number of the metadata, None where there is none."""
    text = metadata.get(key, "")
    return int(text) if text.lstrip("-").isdigit() and text.isascii() else None


def stored_recipe(artifact: Artifact) -> dict[str, object]:
    """Return the recipe in an artifact's metadata; empty for a float model.

    Raises ValueError with a line that names the file where it is damaged.
    """
    try:
        return recipe_in_metadata(artifact.metadata)
    except Damaged as error:
        raise ValueError(f"{artifact.path} is damaged: {error}; export it again") from None


def recipe_in_metadata(metadata: Mapping[str, str]) -> dict[str, object]:
    """Return the recipe in `metadata`; empty for a float model. Raises Damaged."""
    text = metadata.get("quantization") or "{}"
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        raise Damaged(f"its metadata 'quantization' is no recipe: {text[:_SHOWN]!r}")
    return recipe
