"""Estimate how much memory a runner takes for an artifact, by arithmetic."""

from dataclasses import dataclass

from exporter.artifact.contents import CHOSEN_KEY, PTE, Artifact
from exporter.artifact.metadata import StateMetadata
from exporter.recipe.schemes import LOWBIT

_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
CACHE_TYPES = ("float32", "float16", "int8", "int4")  # of a state
BLOCK = 16  # positions in a block of a state (kernels/lowbit.h, Cache)
# Measured as the resident memory that is neither file, cache nor activations, with tokenizers' tables of
# 1.2 MB (SmolLM2's) and 2.5 MB, 2026-11-22: the program with its libraries, and what the tokenizer builds for
# each byte of its table.
_PROGRAM_BYTES, _TOKENIZER_FACTOR = 6_000_000, 6


@dataclass(frozen=True)
class StateChoice:
    """What a program decides when it starts: context length and type of the cache (None: the artifact's), and
    the number of sessions."""

    context: int | None = None
    cache_dtype: str | None = None
    sessions: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes resident at the most when `context` positions are in the cache of each of `sessions`.

    The file's are mapped and can be dropped and read again. `activations` are of the largest
    chunk: in a `.pte` all that is planned, which is taken as it is written; elsewhere with one row
    of logits, as generating takes. None where the format does not tell.
    """

    context: int
    sessions: int
    file: int
    cache: int | None
    activations: int | None
    runner: int

    @property
    def total(self) -> int:
        return self.file + (self.cache or 0) + (self.activations or 0) + self.runner


def estimate(artifact: Artifact, choice: StateChoice = StateChoice()) -> Memory:
    """Estimate the memory that the state of `choice` takes when it is full, with all that stands beside it.

    Raises ValueError when that cannot be of the artifact.
    """
    default = artifact.context_length
    largest = artifact.number("longest_context") or default
    context = choice.context if choice.context is not None else default or 0
    if choice.context is not None and largest is not None and not 1 <= context <= largest:
        raise ValueError(
            f"--context {context} is outside 1..{largest}, the context of {artifact.path}: "
            "choose one in that range" + (", or export with --max-seq-length" if largest == default else "")
        )
    if artifact.delegate != LOWBIT and (choice.sessions != 1 or choice.cache_dtype is not None):
        raise ValueError(
            f"{artifact.path} keeps its cache in the graph: one session, of a type that was decided at "
            "export; leave --sessions and --cache-dtype out"
        )
    return Memory(
        context,
        choice.sessions,
        artifact.size,
        cache_bytes(artifact, choice, context),
        _activations(artifact, default),
        _PROGRAM_BYTES + _TOKENIZER_FACTOR * len(artifact.tokenizer),
    )


def cache_bytes(artifact: Artifact, choice: StateChoice, context: int) -> int | None:
    """Return the bytes of keys and values of `context` positions for each session, in whole blocks where the
    kernels are ours, and there of rotary tables; None where unknown."""
    position = position_bytes(artifact, choice.cache_dtype)
    state = _state(artifact)
    if position is None or state is None:
        return None if position is None else position * context
    rotary = sum(len(each.frequencies) for each in state.rotations)
    blocks = choice.sessions * -(-context // BLOCK)
    return blocks * BLOCK * position + 8 * rotary * context


def position_bytes(artifact: Artifact, cache_dtype: str | None = None) -> int | None:
    """Return the bytes of one position in all layers' keys and values, None where unknown; `cache_dtype` None
    is the artifact's own."""
    if artifact.delegate == LOWBIT:
        state, dtype = _state(artifact), cache_dtype or artifact.cache_dtype
        if state is None or dtype not in CACHE_TYPES:
            return None
        return sum(2 * heads * block_bytes(dtype, width) for heads, width, _ in state.layers) // BLOCK
    layers, width = artifact.number("n_layers"), _WIDTHS.get(artifact.cache_dtype or "")
    heads, head = artifact.number("n_kv_heads"), artifact.number("head_dim")
    if None in (layers, width, heads, head):
        return None
    return 2 * layers * heads * head * width


def _state(artifact: Artifact) -> StateMetadata | None:
    """Return what an artifact on our operators says of its state; None where it is damaged, or on others."""
    if artifact.delegate != LOWBIT:
        return None
    try:
        return StateMetadata.from_strings(artifact.metadata)
    except ValueError:
        return None


def block_bytes(cache_dtype: str, head_dim: int) -> int:
    """Return the bytes of a block of one head's keys, or values. Raises KeyError for an unknown type."""
    if cache_dtype == "int4":
        return BLOCK * (-(-head_dim // 32) * 32) // 2 + 4 * BLOCK
    padded = -(-head_dim // 16) * 16
    scales = 4 * BLOCK if cache_dtype == "int8" else 0
    return BLOCK * padded * _WIDTHS[cache_dtype] + scales


def _activations(artifact: Artifact, context: int | None) -> int | None:
    if artifact.kind == PTE and artifact.delegate != LOWBIT:  # logits of every row are planned, and not taken
        caches = cache_bytes(artifact, StateChoice(), context or 0)
        if artifact.planned_bytes is None or caches is None:
            return None
        return max(0, artifact.planned_bytes - caches)
    chunk, vocabulary, dim = (artifact.number(key) for key in ("max_chunk", "vocab_size", "dim"))
    widths = [t.packed.columns for t in artifact.packed() if t.name.endswith(".down")]
    if not widths or None in (chunk, vocabulary, dim):
        return None
    hidden, chosen = max(widths), artifact.number(CHOSEN_KEY)
    # Gate and up, their product, the residual stream and its norm are there at a time; with experts what each
    # of a token's reads, its gate and up, and then their product and what it makes.
    at_once = 3 * hidden if chosen is None else chosen * (2 * hidden + dim)
    return 4 * max(chunk * (at_once + 2 * dim), vocabulary)
