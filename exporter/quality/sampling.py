"""Decode many texts side by side, a token each a step."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.model.block import run_layer
from exporter.model.decoder import Block, Transformer
from exporter.quality.layerwise import over_parts
from exporter.quality.windows import (
    Cache,
    RotaryTables,
    WindowOperations,
    embedded,
    float_weights,
    last_hidden,
)


class BatchDecoder:
    """The float decoder for B sequences that all stand at the same position."""

    def __init__(self, model: Transformer, batch: int, length: int):
        self.model, self.position = model, 0
        self.blocks = list(model.layers)  # read once, not at each step
        self.positions = RotaryTables(model.config, length)
        self.caches = []
        for layer in model.config.layers:
            shape = (batch, layer.attention.n_kv_heads, length, layer.attention.head_dim)
            self.caches.append((torch.empty(shape), torch.empty(shape)))

    def read(self, tokens_BT: Tensor) -> None:
        """Take the first tokens of all sequences, as if each had been a step."""
        T = tokens_BT.shape[1]
        if not T:
            return
        x = embedded(self.model, tokens_BT)
        for i, block in enumerate(self.blocks):
            known = float_weights(block)

            def work(windows: slice, i=i, block=block, known=known, x=x) -> Tensor:
                return self._layer(i, block, x[windows], windows, lambda name, h: F.linear(h, *known[name]))

            x = torch.cat(list(over_parts(work, len(x))))
        self.position = T

    def step(self, tokens_B: Tensor) -> Tensor:
        """Return logits [B, V] after `tokens_B` at the next position."""
        x = embedded(self.model, tokens_B[:, None])
        for i, block in enumerate(self.blocks):

            def linear(name: str, h: Tensor, block=block) -> Tensor:
                # Joined weights would be copied at each step.
                return torch.cat([source(h) for source in block.sources(name)], dim=-1)

            x = self._layer(i, block, x, slice(None), linear)
        self.position += 1
        return self.model.logits(last_hidden(self.model, x[:, 0]))

    def _layer(
        self, i: int, block: Block, x_BTD: Tensor, windows: slice, linear: Callable[[str, Tensor], Tensor]
    ) -> Tensor:
        cache = Cache(*(kept[windows] for kept in self.caches[i]), self.position)
        ops = WindowOperations(block, self.positions, cache)
        return run_layer(block.layer, ops, x_BTD, linear, torch.add)
