"""Estimate how much memory a runner takes for an artifact, by arithmetic."""

from dataclasses import dataclass

from exporter.artifact.contents import PTE, Artifact
from exporter.recipe.schemes import LOWBIT

_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_BLOCK = 16  # positions in a block of the lowbit cache
# Measured as the resident memory that is neither file, cache nor activations, with tokenizers' tables of
# 1.2 MB (SmolLM2's) and 2.5 MB, 2026-11-22: the program with its libraries, and what the tokenizer builds for
# each byte of its table.
_PROGRAM_BYTES, _TOKENIZER_FACTOR = 6_000_000, 6


@dataclass(frozen=True)
class Memory:
    """Bytes resident at the most when `context` positions are in the cache.

    The file's are mapped and can be dropped and read again. `activations` are of the largest
    chunk: in a `.pte` all that is planned, which is taken as it is written; elsewhere with one row
    of logits, as generating takes. None where the format does not tell.
    """

    context: int
    file: int
    cache: int | None
    activations: int | None
    runner: int

    @property
    def total(self) -> int:
        return self.file + (self.cache or 0) + (self.activations or 0) + self.runner


def estimate(artifact: Artifact, context: int | None = None) -> Memory:
    """Estimate the memory that `context` positions take; None: the artifact's whole context.

    Raises ValueError when that is outside the artifact's context.
    """
    largest = artifact.context_length
    if context is None:
        context = largest or 0
    elif largest is not None and not 1 <= context <= largest:
        raise ValueError(
            f"--context {context} is outside 1..{largest}, the context of {artifact.path}: "
            "choose one in that range, or export with --max-seq-length"
        )
    return Memory(
        context,
        artifact.size,
        cache_bytes(artifact, context),
        _activations(artifact, largest),
        _PROGRAM_BYTES + _TOKENIZER_FACTOR * len(artifact.tokenizer),
    )


def cache_bytes(artifact: Artifact, context: int) -> int | None:
    """Return the bytes of keys and values of `context` positions, in whole blocks where the kernels are ours;
    None where unknown."""
    layers, width = artifact.number("n_layers"), _WIDTHS.get(artifact.cache_dtype or "")
    if layers is None or width is None:
        return None
    shape = artifact.cache_shape
    if artifact.delegate == LOWBIT:
        if shape is None or len(shape) != 3:
            return None
        return 2 * layers * -(-context // _BLOCK) * shape[0] * shape[2] * width
    heads, head = artifact.number("n_kv_heads"), artifact.number("head_dim")
    if heads is None or head is None:
        return None
    return 2 * layers * context * heads * head * width


def _activations(artifact: Artifact, context: int | None) -> int | None:
    if artifact.kind == PTE and artifact.delegate != LOWBIT:  # logits of every row are planned, and not taken
        caches = cache_bytes(artifact, context or 0)
        if artifact.planned_bytes is None or caches is None:
            return None
        return max(0, artifact.planned_bytes - caches)
    chunk, vocabulary, dim = (artifact.number(key) for key in ("max_chunk", "vocab_size", "dim"))
    widths = [t.packed.columns for t in artifact.packed() if t.name.endswith(".down")]
    if not widths or None in (chunk, vocabulary, dim):
        return None
    hidden = max(widths)
    # Gate and up, their product, the residual stream and its norm are there at a time.
    return 4 * max(chunk * (3 * hidden + 2 * dim), vocabulary)
