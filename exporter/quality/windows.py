"""A layer's operations on many windows of text at once, in float32.

Shapes: B windows of T tokens, D model width, H query heads, K key/value heads, d head width, S keys.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.model.config import AttentionSpec, ModelConfig, Rope
from exporter.model.decoder import Block, Norm, RMSNorm, Transformer, activated, gated_product
from exporter.model.rotary import query_factors, rope_tables

QUERIES_AT_ONCE = 128
# A matrix's joined weight [N, K] and bias [N], by its name inside the layer.
Known = dict[str, tuple[Tensor, Tensor | None]]


class RotaryTables:
    """Rotary tables of every rotation of a model, and what queries grow by, for positions 0..length - 1."""

    def __init__(self, config: ModelConfig, length: int):
        self._tables = {rope: rope_tables(rope, length) for rope in config.ropes()}
        self._factors = {
            rope: query_factors(rope.query_growth, length)
            for rope in config.ropes() if rope.query_growth is not None
        }  # fmt: skip

    def turn(self, rope: Rope | None, x: Tensor, start: int) -> Tensor:
        """x [..., T, d] of the positions from `start` on, turned."""
        if rope is None:
            return x
        cos, sin = (table[start : start + x.shape[-2]] for table in self._tables[rope])
        y = x.clone()
        if rope.interleaved:
            first, second = (slice(k, rope.width, 2) for k in range(2))
        else:
            half = rope.width // 2
            first, second = slice(0, half), slice(half, rope.width)
        y[..., first].mul_(cos).addcmul_(x[..., second], sin, value=-1)
        y[..., second].mul_(cos).addcmul_(x[..., first], sin)
        return y

    def grown(self, rope: Rope | None, q: Tensor, start: int) -> Tensor:
        """Queries q [..., T, d] of the positions from `start` on, times what they grow by there."""
        if rope not in self._factors:
            return q
        return q * self._factors[rope][start : start + q.shape[-2], None]


@dataclass
class Cache:
    """Keys and values [B, K, length, d] of the first `position` positions."""

    keys: Tensor
    values: Tensor
    position: int = 0


@dataclass(frozen=True)
class WindowOperations:
    """The operations of `block` on windows [B, T, ...] from position 0 on, or behind what `cache` holds."""

    block: Block
    positions: RotaryTables
    cache: Cache | None = None

    def norm(self, name: str, x_BTD: Tensor) -> Tensor:
        return apply_norm(self.block.norm(name), x_BTD)

    def attend(self, qkv_BTN: Tensor) -> Tensor:
        spec = self.block.layer.attention
        q, k, v, *gate = qkv_BTN.split([s.rows for s in self.block.matrices["wqkv"].sources], dim=-1)
        q, k = (self._heads(spec, x, name) for x, name in ((q, "q_norm"), (k, "k_norm")))
        v = v.unflatten(-1, (-1, spec.head_dim)).transpose(1, 2)
        start = 0 if self.cache is None else self.cache.position
        q, k = (self.positions.turn(spec.rope, x, start) for x in (q, k))
        q = self.positions.grown(spec.rope, q, start)
        if self.cache is not None:
            end = start + k.shape[2]
            self.cache.keys[:, :, start:end], self.cache.values[:, :, start:end] = k, v
            k, v = self.cache.keys[:, :, :end], self.cache.values[:, :, :end]
            self.cache.position = end
        sinks = self.block.attention.sinks if spec.sinks else None
        y = causal_attention(spec, q, k, v, sinks).transpose(1, 2).flatten(2)
        return y * torch.sigmoid(gate[0]) if spec.gated else y

    def activate(self, x_BTN: Tensor) -> Tensor:
        spec = self.block.layer.feed_forward
        return gated_product(spec, *x_BTN.chunk(2, dim=-1)) if spec.gated else activated(spec, x_BTN)

    def _heads(self, spec: AttentionSpec, x_BTN: Tensor, norm: str) -> Tensor:
        """[B, heads, T, d], normalized as `spec` says."""
        if spec.qk_norm == "width":
            x_BTN = self.norm(norm, x_BTN)
        x = x_BTN.unflatten(-1, (-1, spec.head_dim))
        return (self.norm(norm, x) if spec.qk_norm == "head" else x).transpose(1, 2)


def causal_attention(
    spec: AttentionSpec, q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, sinks_H: Tensor | None
) -> Tensor:
    """Causal attention [B, H, T, d] of the last T of S positions to those that `spec` lets them see.

    A few queries at a time meet the keys that one of them sees: torch's kernel computes all that it is
    given, those that the mask hides, too.
    """
    T, S = q_BHTd.shape[2], k_BKSd.shape[2]
    y = []
    for start in range(0, T, QUERIES_AT_ONCE):
        end = min(start + QUERIES_AT_ONCE, T)
        first, last = S - T + start, S - T + end  # the positions of these queries
        seen_from = 0 if spec.window is None else max(0, first + 1 - spec.window)
        q, k, v = q_BHTd[:, :, start:end], k_BKSd[:, :, seen_from:last], v_BKSd[:, :, seen_from:last]
        mask = None if last == first + 1 else _seen(spec.window, first, last, seen_from)
        if spec.softcap is None and sinks_H is None:
            y.append(F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=spec.scale, enable_gqa=spec.n_heads != spec.n_kv_heads,
            ))  # fmt: skip
        else:
            y.append(_attend_by_hand(spec, q, k, v, mask, sinks_H))
    return torch.cat(y, dim=2)


def _seen(window: int | None, first: int, last: int, seen_from: int) -> Tensor:
    """Which of the keys seen_from..last - 1 each query first..last - 1 sees, bool [queries, keys]."""
    distance = torch.arange(first, last)[:, None] - torch.arange(seen_from, last)[None, :]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _attend_by_hand(
    spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks_H: Tensor | None
) -> Tensor:
    """Compute attention with a soft cap or sinks, which torch's kernel has not."""
    k, v = (x.repeat_interleave(spec.n_heads // spec.n_kv_heads, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * spec.score_scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks_H is None:
        return torch.softmax(scores, dim=-1) @ v
    sinks = sinks_H.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1)[..., :-1] @ v


def apply_norm(norm: Norm, x_BTD: Tensor) -> Tensor:
    """The norm of x, by torch's own operators, which are faster than the graph's."""
    if isinstance(norm, RMSNorm):
        return F.rms_norm(x_BTD, norm.weight.shape, norm.weight, norm.eps)
    return F.layer_norm(x_BTD, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def join_layers(layers: list[torch.nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The layers' weights [N, K] and biases [N] as one."""
    weight = torch.cat([layer.weight.detach() for layer in layers]).float()
    if all(layer.bias is None for layer in layers):
        return weight, None
    biases = [torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
              for layer in layers]  # fmt: skip
    return weight, torch.cat([bias.to(weight.device) for bias in biases]).float()


def float_weights(block: Block) -> Known:
    return {name: join_layers(block.sources(name)) for name in block.matrices}


def embedded(model: Transformer, tokens: Tensor) -> Tensor:
    """Return what the first layer reads, float32 [..., D]."""
    return model.embed(tokens).float()


def last_hidden(model: Transformer, x: Tensor) -> Tensor:
    """Return what the output layer reads [..., D], of the last block's output."""
    h = apply_norm(model.norm, x)
    return h if model.head is None else F.linear(h, model.head.weight)


def capped(logits: Tensor, cap: float | None) -> tuple[Tensor, Tensor | float]:
    """Return logits behind the model's soft cap, and how fast they grow there with those before it."""
    if cap is None:
        return logits, 1.0
    share = torch.tanh(logits / cap)
    return cap * share, 1 - share * share
