"""Read checkpoints that are GGUF files."""

from __future__ import annotations

from pathlib import Path

from exporter.checkpoint.weights import CheckpointDescription, Read, Weights
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.names import GGUF_LONG_ROPE_FACTORS, GGUF_ROPE_FACTORS
from exporter.families.sources.registry import gguf_family
from exporter.formats.gguf_experts import with_experts
from exporter.formats.gguf_split import read_whole_gguf
from exporter.model.config import MAX_EXPERTS
from exporter.model.generation_settings import from_gguf as generation_from_gguf

GGUF_EMBEDDING = "token_embd.weight"


def read_checkpoint_gguf(path: Path) -> CheckpointDescription:
    """Read the fields of the file, or of all parts of a model that is split, and map the weights; the
    tokenizer is in the first file itself.

    Raises ValueError or OSError for a file that is unreadable, damaged or unsupported.
    """
    file = with_experts(read_whole_gguf(path), MAX_EXPERTS)

    def read() -> Read:
        from exporter.checkpoint.tensors import open_gguf  # torch takes seconds

        return open_gguf(file)

    tensors = file.tensors
    if GGUF_EMBEDDING not in tensors:
        raise ValueError(f"{path} has no tensor {GGUF_EMBEDDING}: give a whole model")
    factors = None
    if GGUF_ROPE_FACTORS in tensors:
        factors = file.float_rows(GGUF_ROPE_FACTORS, 0, 1)[0].tolist()
    long_factors = None
    if all(name in tensors for name in GGUF_LONG_ROPE_FACTORS):
        long_factors = tuple(file.float_rows(name, 0, 1)[0].tolist() for name in GGUF_LONG_ROPE_FACTORS)
    shapes = file.shapes()
    try:
        family = gguf_family(file.fields, shapes).gguf
        config = family.read(GGUFConfig(file.fields, shapes, factors, long_factors))
        file.check_types(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    weights = Weights(files=tuple(file.data), shapes=shapes, open=read, names=family.names)
    return CheckpointDescription(
        config, weights, tokenizer_path=file.path, generation=generation_from_gguf(file.fields),
        dequantized=file.quantized(tensors),
    )  # fmt: skip
