"""A rotary embedding in numbers: what an artifact's metadata has of one, and a state's tables are made of.

Only the standard library is used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rotation:
    """A rotary embedding: `frequencies` in radians a position, float32 numbers, and the factor of cosines and
    sines. States of a longer context than `short_context` have `long_frequencies` instead, as many. Queries
    at position p are multiplied by `query_factors`[p // `query_span`], where there are any."""

    frequencies: tuple[float, ...]
    factor: float = 1.0
    short_context: int | None = None
    long_frequencies: tuple[float, ...] = ()
    query_factors: tuple[float, ...] = ()
    query_span: int = 1

    def of_context(self, context_length: int) -> tuple[float, ...]:
        """Return the frequencies of a state of `context_length` positions."""
        long = self.short_context is not None and context_length > self.short_context
        return self.long_frequencies if long else self.frequencies

    def to_json(self) -> object:
        """Return a list of frequencies where there is nothing else, or an object."""
        if self.factor == 1 and self.short_context is None and not self.query_factors:
            return self.frequencies
        found = {"frequencies": self.frequencies, "factor": self.factor}
        if self.short_context is not None:
            found |= {"short_context": self.short_context, "long_frequencies": self.long_frequencies}
        if self.query_factors:
            found |= {"query_factors": self.query_factors, "query_span": self.query_span}
        return found

    @classmethod
    def from_json(cls, value: object) -> Rotation:
        """Read what `to_json` returned. Raises KeyError, TypeError or ValueError for anything else."""
        if not isinstance(value, Mapping):
            return cls(_numbers(value))
        short = value.get("short_context")
        return cls(
            _numbers(value["frequencies"]),
            float(value["factor"]),
            None if short is None else int(short),
            () if short is None else _numbers(value["long_frequencies"]),
            _numbers(value.get("query_factors", ())),
            int(value.get("query_span", 1)),
        )


def _numbers(values: object) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
