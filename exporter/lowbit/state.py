"""States of `torch.ops.lowbit`: the keys and values of several sessions, of which a graph knows a handle.

`kernels/state/state.h` describes them. Errors of theirs are RuntimeErrors with their line.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.lowbit import ops
from exporter.model.config import LayerSpec, ModelConfig
from exporter.model.rotary import rotation
from exporter.model.rotation import Rotation

NO_ROPE = -1


@dataclass(frozen=True)
class LayerLayout:
    """A layer's attention; `rope` is a number in `StateLayout.rotations`, or NO_ROPE."""

    kv_heads: int
    head_dim: int
    rope: int


@dataclass(frozen=True)
class StateLayout:
    """What a state keeps of each layer, and each rotary embedding."""

    layers: tuple[LayerLayout, ...]
    rotations: tuple[Rotation, ...]

    @classmethod
    def of(cls, config: ModelConfig) -> "StateLayout":
        """Describe the states of a model."""
        return cls.of_layers(config.layers, config)

    @classmethod
    def of_layers(cls, layers: Sequence[LayerSpec], config: ModelConfig) -> "StateLayout":
        """Describe the states of some of a model's layers."""
        ropes = config.ropes()

        def layout(layer: LayerSpec) -> LayerLayout:
            spec = layer.attention
            rope = NO_ROPE if spec.rope is None else ropes.index(spec.rope)
            return LayerLayout(spec.n_kv_heads, spec.head_dim, rope)

        rotations = (rotation(rope, config.context_length) for rope in ropes)
        return cls(tuple(map(layout, layers)), tuple(rotations))


class State:
    """A state in PyTorch's library; gone with the object. `cache_dtype` is one of CACHE_TYPES.

    Raises RuntimeError for a context, cache type or number of sessions that cannot be.
    """

    def __init__(self, layout: StateLayout, context_length: int, cache_dtype: str, sessions: int = 1):
        ops.load()
        self.handle = torch.ops.lowbit.new_state(
            *_arguments(layout, context_length), context_length, cache_dtype, sessions
        )
        self.tensor = torch.tensor([self.handle])  # as a graph takes it

    def __del__(self):
        if hasattr(self, "handle"):
            torch.ops.lowbit.drop_state(self.handle)

    def open(self) -> int:
        """Return the number of a new session without tokens."""
        return torch.ops.lowbit.open_session(self.handle)

    def fork(self, session: int) -> int:
        """Return a session of the same tokens."""
        return torch.ops.lowbit.fork_session(self.handle, session)

    def drop(self, session: int) -> None:
        torch.ops.lowbit.drop_session(self.handle, session)

    def rewind(self, session: int, position: int) -> None:
        """Forget the positions from `position` on."""
        torch.ops.lowbit.rewind_session(self.handle, session, position)

    def position(self, session: int) -> int:
        return torch.ops.lowbit.session_position(self.handle, session)

    def save(self, session: int) -> Tensor:
        """Return what the caches hold of a session, uint8."""
        return torch.ops.lowbit.save_session(self.handle, session)

    def restore(self, saved: Tensor, positions: int) -> int:
        """Return a session of what `save` gave for `positions` tokens."""
        return torch.ops.lowbit.restore_session(self.handle, saved, positions)

    @contextmanager
    def forward(self, segments: Tensor) -> Iterator[None]:
        """Run a forward of the tokens of `segments` int64 [S, 2], rows of (session, number of tokens). The
        sessions stay where they were when it fails."""
        torch.ops.lowbit.begin_forward(self.handle, segments)
        try:
            yield
        except BaseException:
            torch.ops.lowbit.abandon_forward(self.handle)
            raise
        torch.ops.lowbit.end_forward(self.handle)


def state_bytes(layout: StateLayout, context_length: int, cache_dtype: str, sessions: int = 1) -> int:
    """Return the bytes that a state takes when all its sessions are full."""
    ops.load()
    return torch.ops.lowbit.state_bytes(
        *_arguments(layout, context_length), context_length, cache_dtype, sessions
    )


def _arguments(layout: StateLayout, context_length: int) -> tuple[list, ...]:
    """Return what PyTorch's functions of states take of a layout."""
    layers = [n for layer in layout.layers for n in (layer.kv_heads, layer.head_dim, layer.rope)]
    frequencies = [torch.tensor(each.of_context(context_length)) for each in layout.rotations]
    factors = [each.factor for each in layout.rotations]
    of_queries = [torch.tensor(each.query_factors) for each in layout.rotations]
    return layers, frequencies, factors, of_queries, [each.query_span for each in layout.rotations]
