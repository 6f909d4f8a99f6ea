"""Trace what each half of a layer, as the artifact has it, adds to the error, block by block.

The float model's own residual stream is given to every block of the artifact, rebuilt on its bytes
with the same operators, so that an error is the block's own and not one that came in. A recipe that
rotates the residual stream is met in its own basis: the orthogonal matrix is found from the two
embedding tables (Procrustes).
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.artifact.contents import Artifact, StoredTensor, stored_recipe
from exporter.lowbit.decoder import LowbitBlock, LowbitOperations, embed, normed
from exporter.lowbit.pack import PackedLinear, linear_kind
from exporter.lowbit.state import State, StateLayout
from exporter.model.block import BRANCHES, run_branch
from exporter.model.decoder import Transformer
from exporter.model.matrices import last_norm, layer_matrices, layer_vectors
from exporter.recipe.schemes import WEIGHT_ONLY_SCHEMES
from exporter.util.progress import Report
from exporter.verify.checks import Check, check
from exporter.verify.weights import as_bytes, transforms_of, unpack

# A part stands out when its error is so many times the median's and not small, or its result has
# another length.
OUTLIER, SMALL_ERROR, GAIN = 4.0, 0.15, (0.5, 1.6)


@dataclass(frozen=True)
class PartError:
    """The error of one half of a layer, the table or the output: the relative error of what it adds to the
    residual stream (of its result), and the gain, its part along the float model's."""

    name: str
    error: float
    gain: float

    def stands_out(self, median: float) -> bool:
        if not math.isfinite(self.error) or not GAIN[0] <= self.gain <= GAIN[1]:
            return True
        return self.error > max(OUTLIER * median, SMALL_ERROR)


def trace(
    artifact: Artifact, model: Transformer, tokens: Sequence[int], report: Report
) -> list[PartError]:
    """Measure every part in the model's order, over the positions of `tokens`. The artifact's weights are on
    our kernels."""
    rebuilt = _Rebuilt(artifact, model)
    config = model.config
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)])
        x = model.embed(ids[0]).float()
        found = [_part("table", x, rebuilt.embed(ids))]
        positions = torch.arange(len(tokens))
        shared = model.shared_operands(positions, x.dtype)
        caches = model.new_caches()
        for i, block in enumerate(model.layers):
            ops = model.operations(block, positions, shared, caches[2 * i : 2 * i + 2])
            stored, state = rebuilt.layer(i), rebuilt.state(i)
            segments = torch.tensor([[state.open(), len(tokens)]])
            stored_ops = LowbitOperations(stored, 0, segments, state.tensor)
            with state.forward(segments):
                start = x
                for name, branch in BRANCHES.items():
                    given = start if block.layer.parallel else x
                    added = run_branch(branch(block.layer, ops, given), block.linear)
                    turned = branch(block.layer, stored_ops, rebuilt.turned(given))
                    actual = rebuilt.turned_back(run_branch(turned, stored.linear))
                    found.append(_part(f"layers.{i}.{name}", added, actual))
                    x = x + added
            report(f"  traced layer {i + 1} of {config.n_layers}")
        found.append(_part("output", model.output(model.norm(x)), rebuilt.output(x)))
    return found


def trace_checks(parts: Sequence[PartError]) -> Iterator[Check]:
    """Make a check of each part that stands out, named after it, and one of the others."""
    medians = {kind: statistics.median(p.error for p in parts if _kind(p) == kind)
               for kind in {_kind(p) for p in parts}}  # fmt: skip
    halves = [p for p in parts if p.name.startswith("layers.")]
    overall = statistics.median(p.error for p in halves) if halves else 0.0
    good = []
    for part in parts:
        median = medians[_kind(part)] if part in halves else overall
        if not part.stands_out(median):
            good.append(part)
            continue
        yield check(f"trace of {part.name}", False, f"error {part.error:.3g}, gain {part.gain:.2f}",
                    f"error at most {max(OUTLIER * median, SMALL_ERROR):.3g}",
                    f"adds {part.gain:.2f} times the float model's, error {part.error:.3g} where "
                    f"others have {median:.3g}")  # fmt: skip
    if good:
        worst = max(good, key=lambda part: part.error)
        yield check("trace", True, f"{len(good)} of {len(parts)} parts", "none stands out",
                    note=f"largest error {worst.error:.3g} in {worst.name}")  # fmt: skip


def _kind(part: PartError) -> str:
    return part.name.rpartition(".")[2]


def _part(name: str, expected: Tensor, actual: Tensor) -> PartError:
    expected, actual = expected.double(), actual.double()
    norm2 = float((expected * expected).sum()) or 1e-30
    error = math.sqrt(float(((actual - expected) ** 2).sum()) / norm2)
    return PartError(name, error, float((expected * actual).sum()) / norm2)


class _Rebuilt:
    """The artifact's parts, on its bytes."""

    def __init__(self, artifact: Artifact, model: Transformer):
        from exporter.lowbit import ops

        ops.load()
        self._artifact, self._config = artifact, model.config
        self._weights_only = any(key in WEIGHT_ONLY_SCHEMES for key in stored_recipe(artifact))
        self._turn = _rotation(artifact, model)
        self._cache_dtype = artifact.cache_dtype or "float32"
        self._length = int(artifact.metadata["context_length"])

    def embed(self, tokens: Tensor) -> Tensor:
        table = as_bytes(self._artifact.weight("table"))
        return self.turned_back(embed(self._config, table, tokens))

    def layer(self, number: int) -> LowbitBlock:
        config, layer = self._config, self._config.layers[number]
        matrices, vectors = layer_matrices(layer, config.dim), layer_vectors(layer, config.dim)
        linears = {m.name: self._linear(f"layers.{number}.{m.name}", m.experts) for m in matrices}
        vectors = {vector.name: self._float(f"layers.{number}.{vector.name}") for vector in vectors}
        return LowbitBlock(layer, config.norm_eps, linears, vectors)

    def state(self, number: int) -> State:
        """A state of that layer alone."""
        layout = StateLayout.of_layers([self._config.layers[number]], self._config)
        return State(layout, self._length, self._cache_dtype)

    def output(self, x_TD: Tensor) -> Tensor:
        config = self._config
        vectors = {vector.name: self._float(vector.name) for vector in last_norm(config)}
        x_TD = normed(config.layers[-1], vectors, "norm", self.turned(x_TD), config.norm_eps)
        for name in ("head", "output"):
            x_TD = self._linear(name)(x_TD) if self._has(name) else x_TD
        return x_TD

    def turned(self, x_TD: Tensor) -> Tensor:
        """Turn a stream from the float model's basis to the artifact's."""
        return x_TD.contiguous() if self._turn is None else (x_TD @ self._turn).contiguous()

    def turned_back(self, x_TD: Tensor) -> Tensor:
        return x_TD if self._turn is None else x_TD @ self._turn.T

    def _linear(self, name: str, experts: int | None = None) -> PackedLinear:
        tensor = self._artifact.weight(name)
        bias = self._float(f"{name}.bias") if self._has(f"{name}.bias") else None
        kind = linear_kind(tensor.packed.kind == "integer", self._weights_only, self._artifact.token_scales)
        return kind(as_bytes(tensor), bias, tensor.packed.rows // (experts or 1), experts)

    def _has(self, name: str) -> bool:
        return any(name in tensor.names for tensor in self._artifact.weights)

    def _float(self, name: str) -> Tensor:
        tensor: StoredTensor = self._artifact.weight(name)
        return as_bytes(tensor).view(torch.float32).view(tensor.shape)


def _rotation(artifact: Artifact, model: Transformer) -> Tensor | None:
    """Find the orthogonal matrix [D, D] of the recipe's rotation; None where it has none.

    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem (1966).
    """
    if "rotate" not in transforms_of(artifact):
        return None
    table = unpack(artifact.weight("table"))
    u, _, v = torch.linalg.svd((model.tok_embeddings.weight.float().T @ table).double())
    return (u @ v).float()
