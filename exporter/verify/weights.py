"""Compare every stored weight with the checkpoint's, so that a damaged layer is named.

A packed weight is unpacked by the kernels' own code and compared with the matrix that it was made
of. What rounding costs follows from the stored scales: an error of scale / sqrt(12) a weight
where nothing is clipped. ERROR_FACTOR times is allowed, and the part of a weight that points along the
original must be between WEIGHT_GAIN's bounds times as long, in every panel of 16 rows too. With the levels
-scale and +scale the best scale is the mean magnitude (exporter/lowbit/search.py), whatever the weights: the
gain is the scales' own, of that, and the error follows from the scales without a factor.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from exporter.artifact.contents import UNNAMED, Artifact, StoredTensor
from exporter.artifact.metadata import STATE_KEY, StateMetadata
from exporter.formats.packed_header import HEADER_BYTES, ROW_BLOCK, TWO_LEVELS, PackedHeader
from exporter.lowbit.state import StateLayout
from exporter.model.config import ModelConfig
from exporter.model.matrices import Matrix, model_matrices, model_vectors
from exporter.model.rotation import Rotation
from exporter.recipe.methods import Method, parse_method
from exporter.recipe.recipe import parse_recipe
from exporter.recipe.schemes import DEFAULT_METHOD
from exporter.verify.checks import Check, check, skipped

# By bits: errors allowed, in those that follow from the stored scales. Of SmolLM2-135M by `linear:a8wx`
# (`rtn` and `hqq`) and `linear:a8wxdq` they were at most 1.2 times those, with one bit 1.9 times.
ERROR_FACTOR = {1: 4.0, 2: 3.0, 3: 2.5}  # few bits clip; others OTHER_FACTOR
OTHER_FACTOR = 2.0
COMPENSATING_FACTOR = 2.5  # further, of methods that move weights to make up for others' rounding
# Lengths allowed along the original, of a whole weight and of a panel of 16 rows: doubled scales give 2, and
# one bit that has 0 for a level keeps half of the length, or nothing.
WEIGHT_GAIN, PANEL_GAIN = (0.55, 1.3), (0.4, 1.6)
ONE_BIT_GAIN, ONE_BIT_PANEL_GAIN = (-0.1, 0.8), (-0.1, 1.0)
_FLOAT_ERROR = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 4e-3}  # relative, a weight's rounding
TWO_LEVELS_FACTOR = 1.2  # of errors that the scales determine
_SMALL = 3e-4  # scales are float16
_PANELS_AT_ONCE = 32  # few enough for a core's cache
# Transforms after which stored weights are not the checkpoint's: rotated or rescaled.
TRANSFORMING = ("rotate", "awq", "smoothquant")


@dataclass(frozen=True)
class WeightError:
    """The error of one packed weight, or of its rows of one format, against the checkpoint's: the relative
    Frobenius error, what is allowed, the gain (its part along the original, 1 is the same length), the panel
    of the whole weight whose gain is farthest from 1, and the median error of its kind and format."""

    name: str
    format: str
    error: float
    limit: float
    gain: float
    panel: int
    panel_gain: float
    median: float

    def broken(self) -> str:
        """Say what is wrong, "" for nothing."""
        if not math.isfinite(self.error):
            return "holds values that are not finite"
        one_bit = self.format.startswith("1 bit") and TWO_LEVELS not in self.format
        low, high = ONE_BIT_GAIN if one_bit else WEIGHT_GAIN
        if not low <= self.gain <= high:
            return f"{self.gain:.2f} times the checkpoint's, error {self.error:.3g}"
        if self.error > self.limit:
            return f"error {self.error:.3g}, at most {self.limit:.3g} for {self.format}"
        low, high = ONE_BIT_PANEL_GAIN if one_bit else PANEL_GAIN
        if not low <= self.panel_gain <= high:
            first = self.panel * ROW_BLOCK
            return (f"rows {first} to {first + ROW_BLOCK - 1} are {self.panel_gain:.2f} times the "
                    "checkpoint's")  # fmt: skip
        return ""


def method_of(artifact: Artifact, name: str) -> Method:
    """Return the method that made a linear layer's weight. Raises ValueError for a recipe of another
    exporter."""
    linear = parse_recipe(artifact.metadata.get("quantization") or "{}").linear
    return parse_method(DEFAULT_METHOD if linear is None else linear.for_layer(name).method)


def transforms_of(artifact: Artifact) -> tuple[str, ...]:
    """Return the transforms of an artifact's recipe, which are the same for every layer."""
    return method_of(artifact, "output").transforms


def transformed(artifact: Artifact) -> str | None:
    """Name the first transform of the recipe after which weights are not the checkpoint's; None where there
    is none."""
    return next((w for w in transforms_of(artifact) if w in TRANSFORMING), None)


def check_names(artifact: Artifact, config: ModelConfig) -> None:
    """Raise ValueError where the artifact's named weights are not those of a model of `config`."""
    matrices = model_matrices(config)
    known = {"table", "head", *matrices, *model_vectors(config)}
    known |= {f"{name}.bias" for name, matrix in matrices.items() if matrix.bias}
    found = [name for tensor in artifact.weights for name in tensor.names if not name.startswith(UNNAMED)]
    unknown = [name for name in found if name not in known]
    missing = [name for name in matrices if name not in found] if found else []
    if unknown or missing:
        wrong = f"has {unknown[0]}" if unknown else f"lacks {missing[0]}"
        raise ValueError(
            f"{artifact.path} {wrong}, which a {config.family} model of this checkpoint's config "
            f"{'has not' if unknown else 'has'}: give the checkpoint that it was exported from"
        )


def weight_errors(
    artifact: Artifact, state: Mapping[str, Tensor], config: ModelConfig
) -> list[WeightError]:
    """Measure every packed weight but a `head`, which no checkpoint has; with one, the output is the
    embedding. `state` is the checkpoint's, float32 by canonical names.

    Raises ValueError for a weight of another shape than the checkpoint's.
    """

    def factor(tensor: StoredTensor) -> float:
        name = "output" if "output" in tensor.names else tensor.name
        by_gptq = name != "table" and method_of(artifact, name).rounding == "gptq"
        return COMPENSATING_FACTOR if by_gptq else 1.0

    weights = [tensor for tensor in artifact.packed() if tensor.name != "head"]
    tied = config.tied_embeddings or len(weights) < len(artifact.packed())
    matrices = model_matrices(replace(config, tied_embeddings=tied))
    found = [
        error for tensor in weights
        for error in _errors(tensor, _original(tensor.name, matrices, state), factor(tensor))
    ]  # fmt: skip
    groups: dict[tuple[str, str], list[float]] = {}
    for one in found:
        groups.setdefault((one.name.rpartition(".")[2], one.format), []).append(one.error)
    return [
        WeightError(**{**vars(one), "median": float(np.median(groups[
            one.name.rpartition(".")[2], one.format]))}) for one in found
    ]  # fmt: skip


def weight_checks(errors: Sequence[WeightError]) -> Iterator[Check]:
    """Make a check of each broken weight, named after it, and one of all the others."""
    bad = [error for error in errors if error.broken()]
    for error in bad:
        yield check(error.name, False, f"error {error.error:.3g}, gain {error.gain:.3f}",
                    f"error at most {error.limit:.3g}", error.broken(),
                    f"median of its kind {error.median:.3g}")  # fmt: skip
    good = [error for error in errors if not error.broken()]
    if good:
        worst = max(good, key=lambda e: e.error / e.limit)
        yield check("packed weights", True, f"{len(good)} of {len(errors)} weights",
                    "rounding alone", note=f"nearest to its limit: {worst.name}, error "
                    f"{worst.error:.3g} of {worst.limit:.3g}")  # fmt: skip


def constant_checks(
    artifact: Artifact, state: Mapping[str, Tensor], config: ModelConfig, rescaled: bool
) -> Iterator[Check]:
    """Check norms and biases, which are stored as they are, and what the artifact says of its state.
    `rescaled`: norms and biases hold a method's scales and are not compared."""
    if STATE_KEY in artifact.metadata:
        yield _state_check(artifact.metadata, StateLayout.of(config))
    wrong, count = [], 0
    matrices, vectors = model_matrices(config), model_vectors(config)
    for tensor in artifact.weights:
        name = tensor.name
        if rescaled or tensor.packed is not None or name.startswith(UNNAMED):
            continue
        if name.endswith(".bias"):
            expected = _bias(matrices[name.removesuffix(".bias")], state)
        else:
            expected = state[vectors[name].parameter]
        count += 1
        actual = _read_only(np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape))
        alike = actual.shape == expected.shape
        if not alike or not torch.allclose(actual, expected.float(), rtol=1e-5, atol=1e-5):
            wrong.append(name)
    for name in wrong:
        yield check(name, False, "other values", "the checkpoint's",
                    "its values are not the checkpoint's")  # fmt: skip
    if count > len(wrong):
        yield check("norms and biases", True, f"{count - len(wrong)} of {count}",
                    "the checkpoint's")  # fmt: skip
    elif not count:
        yield skipped("norms and biases", "the artifact does not show them")


def _state_check(metadata: Mapping[str, str], expected: StateLayout) -> Check:
    name = "heads and rotary frequencies of the state"
    try:
        found = StateMetadata.from_strings(metadata)
    except ValueError as error:
        return check(name, False, "damaged", "the checkpoint's", str(error))
    layers = tuple((layer.kv_heads, layer.head_dim, layer.rope) for layer in expected.layers)
    alike = found.layers == layers and len(found.rotations) == len(expected.rotations)
    alike = alike and all(map(_same_rotation, found.rotations, expected.rotations))
    return check(name, alike, "as the checkpoint's" if alike else "other values", "the checkpoint's")


def _same_rotation(a: Rotation, b: Rotation) -> bool:
    numbers = [(*r.frequencies, r.factor, *r.long_frequencies, *r.query_factors) for r in (a, b)]
    lengths = [
        (len(r.frequencies), r.short_context, len(r.long_frequencies), len(r.query_factors), r.query_span)
        for r in (a, b)
    ]
    return lengths[0] == lengths[1] and np.allclose(*numbers, rtol=1e-6, atol=0)


def unpack(tensor: StoredTensor) -> Tensor:
    """Unpack the weight that the kernels use, float32 [rows, columns]."""
    return torch.ops.lowbit.unpack(as_bytes(tensor))


def as_bytes(tensor: StoredTensor) -> Tensor:
    """View a tensor's bytes as uint8 [bytes]: the file's, which must not be written to."""
    return _read_only(np.frombuffer(tensor.data, np.uint8))


def _read_only(array: np.ndarray) -> Tensor:
    """Make a tensor over memory that must not be written to, which torch would warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def _original(
    name: str, matrices: Mapping[str, Matrix], state: Mapping[str, Tensor]
) -> Tensor:
    sources = ["tok_embeddings"] if name == "table" else [s.name for s in matrices[name].sources]
    return torch.cat([state[f"{source}.weight"].float() for source in sources])


def _bias(matrix: Matrix, state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([
        state[f"{source.name}.bias"].float() if source.bias else torch.zeros(source.rows)
        for source in matrix.sources
    ])  # fmt: skip


def _errors(tensor: StoredTensor, original: Tensor, factor: float) -> Iterator[WeightError]:
    """Measure each range of rows of one format."""
    matrix = tensor.packed
    if tuple(original.shape) != (matrix.rows, matrix.columns):
        raise ValueError(
            f"{tensor.name} is [{matrix.rows}, {matrix.columns}] in the artifact and "
            f"{list(original.shape)} in the checkpoint: give the checkpoint it was exported from"
        )
    actual = unpack(tensor)
    for header in matrix.parts:
        rows = slice(header.first_row, header.first_row + header.rows)
        name = tensor.name
        if len(matrix.parts) > 1:
            name += f" (rows {rows.start} to {rows.stop - 1})"
        data = tensor.data[header.at : header.at + header.bytes]
        yield _error(name, header, data, original[rows], actual[rows], factor)


def _error(
    name: str, header: PackedHeader, data: memoryview, original: Tensor, actual: Tensor, factor: float
) -> WeightError:  # fmt: skip
    panels = header.panels()
    norm2, along, error2, own2 = (torch.zeros(panels, dtype=torch.float64) for _ in range(4))
    for first in range(0, panels, _PANELS_AT_ONCE):
        last = first + _PANELS_AT_ONCE
        a, b = (matrix[first * ROW_BLOCK : last * ROW_BLOCK] for matrix in (original, actual))
        difference = a - b
        for into, x, y in ((norm2, a, a), (along, a, b), (error2, difference, difference), (own2, b, b)):
            into[first:last] = _by_panel(torch.linalg.vecdot(x, y))
    total = float(norm2.sum()) or 1e-30
    # How long it is beside the original; of two levels beside the best scales for their signs.
    length, best = (own2, along) if header.zeros == "between" else (along, norm2)
    gains = torch.where(norm2 > 1e-6 * total / panels, length / best.clamp_min(1e-30), 1.0)
    worst = int((gains.nan_to_num(1e9) - 1).abs().argmax())
    return WeightError(
        name,
        header.text(),
        math.sqrt(float(error2.sum()) / total),
        factor * _limit(header, data, total),
        float(length.sum()) / max(float(best.sum()), 1e-30),
        header.first_row // ROW_BLOCK + worst,
        float(gains[worst]),
        0.0,
    )


def _by_panel(rows: Tensor) -> Tensor:
    """Return the sums of 16 rows each, float64."""
    padded = torch.zeros(-(-len(rows) // ROW_BLOCK) * ROW_BLOCK, dtype=torch.float64)
    padded[: len(rows)] = rows
    return padded.view(-1, ROW_BLOCK).sum(1)


def _limit(header: PackedHeader, data: memoryview, norm2: float) -> float:
    """Return the relative error that the stored scales allow."""
    if header.kind != "integer":
        return _FLOAT_ERROR[header.kind]
    dtype = np.dtype(header.scale_dtype)
    shape = (header.panels(), header.groups, ROW_BLOCK)
    strides = (header.panel_bytes, ROW_BLOCK * dtype.itemsize, dtype.itemsize)
    scales = np.ndarray(
        shape, dtype, data, HEADER_BYTES + header.scales_at, strides
    ).astype(np.float64)
    if header.scale_dtype == "int8":
        steps = (header.panels(), 1, ROW_BLOCK), (header.panel_bytes, 0, 2)
        scales *= np.ndarray(steps[0], np.float16, data, HEADER_BYTES, steps[1])
    scales = np.ldexp(scales, header.scale_exponent)
    widths = np.full(header.groups, header.group_size, np.float64)
    widths[-1] = header.columns - (header.groups - 1) * header.group_size
    squares = float((scales**2 * widths[None, :, None]).sum())
    if header.zeros == "between":
        return TWO_LEVELS_FACTOR * math.sqrt(max(0.0, 1 - squares / norm2)) + _SMALL
    expected = squares / 12
    factor = ERROR_FACTOR.get(header.bits, OTHER_FACTOR)
    return factor * math.sqrt(expected / norm2) + _SMALL
