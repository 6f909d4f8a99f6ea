"""Writes a Hugging Face folder of random weights, of any family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exporter.families.sources.family import Family
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.registry import hf_family
from exporter.model.config import ModelConfig
from scripts.bench.random_folder import (
    BOS,
    EOS,
    FLOAT_TYPES,
    Shape,
    folder_written_whole,
    repeated_rows,
    tokenizer_json,
    write_json,
    write_weights,
)

# Numbers that a config takes from tensors, by the last part of their names: Apertus' activation.
STORED_NUMBERS = {"alpha_p": 0.8, "alpha_n": 0.8, "beta": 0.5, "eps": -1e-6}


@dataclass(frozen=True)
class Described:
    """A config.json as its family reads it, and the numbers that it takes from tensors, by their names."""

    family: Family
    config: ModelConfig
    numbers: Mapping[str, float]


def describe(fields: Mapping[str, object]) -> Described:
    """Reads a config.json. Raises ValueError for one that its family refuses."""
    numbers: dict[str, float] = {}

    def stored(name: str) -> list[float]:
        numbers[name] = STORED_NUMBERS[name.rpartition(".")[2]]
        return [numbers[name]]

    family = hf_family(fields)
    return Described(family, family.hf.read(HFConfig(fields, stored)), numbers)


def write_family_folder(
    folder: Path, fields: Mapping[str, object], progress: Callable[[str], None]
) -> None:
    """Writes `fields` as config.json, a tokenizer, and bfloat16 weights out of a few values, which are quick
    to make; `folder` appears when it is complete.

    Raises ValueError for a config that its family refuses, OSError where `folder` exists or cannot be made.
    """
    described = describe(fields)

    def rows(name: str, shape: Shape) -> Iterator[Tensor]:
        if name in described.numbers:
            return iter([torch.tensor([described.numbers[name]])])
        return repeated_rows(name, shape, 0)

    with folder_written_whole(folder) as part:
        write_json(part / "config.json", fields)
        write_json(part / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
        write_json(part / "tokenizer.json", tokenizer_json(described.config.vocab_size))
        write_json(part / "tokenizer_config.json", {"bos_token": BOS, "eos_token": EOS})
        write_weights(
            part, described.config, FLOAT_TYPES["bf16"], rows, progress, described.family.hf.names,
            dict.fromkeys(described.numbers, (1,)),
        )  # fmt: skip
