"""Meta's params.json, and the same fields in Karpathy's and Mistral's files.

A field that no reader asked for is refused by name, unless it is known to change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.formats.quantized_names import QUANTIZED_REMEDY
from exporter.model.config import is_positive

# The width of the feed-forward layer follows from the tensors; the rest is about training.
HARMLESS = frozenset("dropout ffn_dim_multiplier hidden_dim max_batch_size multiple_of".split())
LORA_REMEDY = "it holds adapters in Meta's own form: give the model without them, or with them merged"


@dataclass(frozen=True)
class MetaConfig:
    """The fields `params`, and what the tensors show."""

    params: Mapping[str, object]
    vocab_size: int
    hidden_dim: int
    tied_embeddings: bool = False

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Raise ValueError naming a field that is not in `known` and may change the computation."""
        for key, remedy in (("quantization_args", QUANTIZED_REMEDY), ("lora_args", LORA_REMEDY)):
            if self.params.get(key) is not None:
                raise ValueError(f"{key} {self.params[key]!r}: {remedy}")
        for name, value in self.params.items():
            if value is not None and name not in known | HARMLESS:
                raise ValueError(
                    f"field {name!r} (value {value!r}) is unknown and may change the computation: "
                    "use a checkpoint without it, or delete it if it does not"
                )

    def count(self, name: str) -> int:
        """The field's value. Raises ValueError for one that is no count."""
        value = self.params.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"field {name!r} is {value!r}, not a positive whole number: correct it")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number, `default` where it is missing or null. Raises ValueError for anything else."""
        value = self.params.get(name)
        if value is None:
            return default
        if not is_positive(value):
            raise ValueError(f"field {name!r} is {value!r}, not a positive number: correct it")
        return float(value)

    def vocabulary(self) -> int:
        """A `vocab_size` of -1 (Llama 2) means the tensors' own."""
        stated = self.params.get("vocab_size", -1)
        return self.vocab_size if stated == -1 else stated
