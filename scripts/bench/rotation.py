"""The same model on another basis: the residual stream turned by a random orthogonal matrix.

The norms' weights g go into the linear layers that read what they scale, which leaves norms of
ones; these commute with an orthogonal Q [D, D], since rms(h Q) = rms(h). Then every reader of the
stream becomes W diag(g) Q, every writer Q^T W, the embedding E Q. Sources: SliceGPT (arXiv
2401.15024, computational invariance), QuaRot (2404.00456).

A tied output cannot stay tied: with weights E Q and a norm of its own, g', it would have to be that
Q diag(g') Q^T = diag(g), which for a general Q is true only where all of g are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.tensors import half_split
from exporter.model.config import ModelConfig
from exporter.model.matrices import Matrix, model_matrices
from exporter.quality.transforms import random_orthogonal  # noqa: F401

VALUES_AT_ONCE = 1 << 23
EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"


@dataclass(frozen=True)
class RotatedWeights:
    """The parameters of `source` on the basis of `rotation`, float64 [D, D], made on demand."""

    source: Checkpoint
    rotation: Tensor

    @property
    def config(self) -> ModelConfig:
        """The source's, with an output of its own."""
        return replace(self.source.config, tied_embeddings=False)

    def rows(self, name: str) -> Iterator[Tensor]:
        """The parameter of canonical name `name` as float32, some rows at a time.

        The arithmetic is float64's. Raises ValueError or OSError where the source cannot be read.
        """
        module, _, suffix = name.rpartition(".")
        matrix = self._matrices().get(module)
        if module.endswith("norm"):
            yield torch.ones(self.config.dim)
        elif matrix is not None and matrix.residual and suffix == "weight":
            yield (self.rotation.T @ self._read(name).double()).float()
        elif matrix is not None and matrix.residual:
            yield (self._read(name).double() @ self.rotation).float()
        elif suffix == "bias":
            yield self._read(name)
        else:
            norm = None if matrix is None else self._read(f"{matrix.feed.name}.weight").double()
            yield from self._turned_columns(name, norm)

    def _matrices(self) -> dict[str, Matrix]:
        """By the names of their sources; the embedding is none."""
        matrices = model_matrices(self.config).values()
        return {source.name: matrix for matrix in matrices for source in matrix.sources}

    def _turned_columns(self, name: str, norm: Tensor | None) -> Iterator[Tensor]:
        matrix = self.rotation if norm is None else norm[:, None] * self.rotation
        tied = name == OUTPUT and self.source.config.tied_embeddings
        weight = self._read(EMBEDDING if tied else name)
        for block in weight.split(max(1, VALUES_AT_ONCE // weight.shape[1])):
            yield (block.double() @ matrix).float()

    def _read(self, name: str) -> Tensor:
        """The source's parameter in float32, in the model's row order."""
        weights = self.source.weights
        tensor = weights.read(weights.stored_name(name), torch.float32)
        if weights.names.interleaved and name.split(".")[-2] in ("wq", "wk"):
            tensor = half_split(tensor, self.source.config.layers[0].attention.head_dim)
        return tensor


@dataclass(frozen=True)
class Difference:
    """Of two models' logits on one prompt: `kl` is the mean over positions, in nats."""

    positions: int
    largest: float
    kl: float


def logits(checkpoint: Checkpoint, ids: list[int]) -> Tensor:
    """The eager float32 model's, [positions, vocabulary]."""
    from exporter.checkpoint.load import load_model
    from exporter.model.decoder import new_caches

    model = load_model(checkpoint, torch.float32, len(ids))
    caches = new_caches(checkpoint.config, len(ids), torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids]), torch.tensor([0]), torch.arange(len(ids)), caches)


def difference(expected: Tensor, actual: Tensor) -> Difference:
    """Of float32 logits [positions, vocabulary]; KL from `expected` to `actual`."""
    log_p, log_q = expected.double().log_softmax(-1), actual.double().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
    return Difference(len(expected), (expected - actual).abs().max().item(), kl)


def prompt_ids(text: str, encode: Callable[[str], list[int]], config: ModelConfig) -> list[int]:
    """At most 256 tokens of `text`, and no more than the model's context."""
    return encode(text)[: min(256, config.context_length)]
