"""Block by block: what each half of a layer, as the artifact has it, adds to the error.

The float model's own residual stream is given to every block of the artifact, rebuilt on its bytes
with the same operators, so that an error is the block's own and not one that came in. A recipe that
rotates the residual stream is met in its own basis: the orthogonal matrix is found from the two
embedding tables (Procrustes).
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.artifact_reader import Artifact, StoredTensor, recipe_of
from exporter.lowbit_model import attention_scale, cache_shape
from exporter.model import Transformer, causal_mask
from exporter.verify_checks import Check, check
from exporter.verify_weights import as_bytes, transforms_of, unpack

_WEIGHTS_ONLY = ("linear:int4", "linear:int8")  # schemes of the operator linear_wx
# A part stands out when its error is so many times the median's and not small, or its result has
# another length.
OUTLIER, SMALL_ERROR, GAIN = 4.0, 0.15, (0.5, 1.6)

Report = Callable[[str], None]


@dataclass(frozen=True)
class PartError:
    """Of one half of a layer, the table or the output: the relative error of what it adds to the
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
    """Of every part in the model's order, over the positions of `tokens`. The artifact's weights are on
    our kernels."""
    rebuilt = _Rebuilt(artifact, model)
    config = model.config
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)])
        x = model.tok_embeddings(ids[0]).float()
        found = [_part("table", x, rebuilt.embed(ids))]
        positions = torch.arange(len(tokens))
        rope = (model.rope_cos[positions], model.rope_sin[positions], model.quarter_turn)
        mask = causal_mask(positions, model.max_seq_length, config.sliding_window)
        mask = mask.repeat(config.n_heads // config.n_kv_heads, 1)
        caches = model.new_caches()
        for i, block in enumerate(model.layers):
            normed = block.attention_norm(x)
            added = block.attention(normed, positions, rope, mask, *caches[2 * i : 2 * i + 2])
            found.append(_part(f"layers.{i}.attention", added, rebuilt.attention(i, x)))
            x = x + added
            added = block.feed_forward(block.ffn_norm(x))
            found.append(_part(f"layers.{i}.feed_forward", added, rebuilt.feed_forward(i, x)))
            x = x + added
            report(f"  traced layer {i + 1} of {config.n_layers}")
        found.append(_part("output", model.output(model.norm(x)), rebuilt.output(x)))
    return found


def trace_checks(parts: Sequence[PartError]) -> Iterator[Check]:
    """One check a part that stands out, named after it; one for the others."""
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
    """The artifact's parts on `torch.ops.lowbit`, in and out in the float model's basis."""

    def __init__(self, artifact: Artifact, model: Transformer):
        from exporter import ops

        ops.load()
        self._artifact, self._config = artifact, model.config
        self._weights_only = any(key in _WEIGHTS_ONLY for key in recipe_of(artifact))
        self._turn = _rotation(artifact, model)
        self._cache_dtype = getattr(torch, artifact.cache_dtype or "float32")
        self._rope = [self._float(name) for name in ("rope_cos", "rope_sin")]

    def embed(self, tokens: Tensor) -> Tensor:
        table = as_bytes(self._artifact.weight("table"))
        return self._back(torch.ops.lowbit.embedding(table, tokens, self._config.dim, 1.0))

    def attention(self, layer: int, x_TD: Tensor) -> Tensor:
        config = self._config
        normed = self._norm(f"layers.{layer}.attention_norm", x_TD)
        qkv = self._linear(f"layers.{layer}.wqkv", normed)
        length = self._rope[0].shape[0]
        shape = cache_shape(config, length, self._cache_dtype)
        caches = (torch.zeros(shape, dtype=self._cache_dtype) for _ in range(2))
        y = torch.ops.lowbit.attention(
            qkv, *self._rope, *caches, torch.tensor([0]), None, None, None,
            config.n_heads, config.n_kv_heads, config.head_dim, config.sliding_window or 0, False,
            False, 0.0, attention_scale(config.head_dim), 0.0,
        )  # fmt: skip
        return self._back(self._linear(f"layers.{layer}.wo", y))

    def feed_forward(self, layer: int, x_TD: Tensor) -> Tensor:
        normed = self._norm(f"layers.{layer}.ffn_norm", x_TD)
        gate_up = self._linear(f"layers.{layer}.gate_up", normed)
        y = torch.ops.lowbit.silu_mul(gate_up, 0.0)
        return self._back(self._linear(f"layers.{layer}.down", y))

    def output(self, x_TD: Tensor) -> Tensor:
        x_TD = self._norm("norm", x_TD)
        return self._linear("output", self._linear("head", x_TD) if self._has("head") else x_TD)

    def _norm(self, name: str, x_TD: Tensor) -> Tensor:
        x_TD = x_TD if self._turn is None else x_TD @ self._turn
        weight = self._float(name)
        return torch.ops.lowbit.rms_norm(x_TD.contiguous(), weight, self._config.norm_eps)

    def _linear(self, name: str, x_TK: Tensor) -> Tensor:
        lowbit, tensor = torch.ops.lowbit, self._artifact.weight(name)
        weight, rows = as_bytes(tensor), tensor.packed.rows
        bias = self._float(f"{name}.bias") if self._has(f"{name}.bias") else None
        if tensor.packed.kind != "integer":
            return lowbit.linear_fp(x_TK, weight, bias, rows)
        if self._weights_only:
            return lowbit.linear_wx(x_TK, weight, bias, rows)
        return lowbit.linear_a8wx(x_TK, weight, bias, rows, self._artifact.token_scales)

    def _back(self, x_TD: Tensor) -> Tensor:
        return x_TD if self._turn is None else x_TD @ self._turn.T

    def _has(self, name: str) -> bool:
        return any(name in tensor.names for tensor in self._artifact.weights)

    def _float(self, name: str) -> Tensor:
        tensor: StoredTensor = self._artifact.weight(name)
        return as_bytes(tensor).view(torch.float32).view(tensor.shape)


def _rotation(artifact: Artifact, model: Transformer) -> Tensor | None:
    """The orthogonal matrix [D, D] of the recipe's rotation, None where it has none.

    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem (1966).
    """
    if "rotate" not in transforms_of(artifact):
        return None
    table = unpack(artifact.weight("table"))
    u, _, v = torch.linalg.svd((model.tok_embeddings.weight.float().T @ table).double())
    return (u @ v).float()
