"""The decoder a layer at a time over many windows of text, without caches.

Shapes: B windows of T tokens, D model width, d head width; a layer's four linear layers, as they are
packed, are `wqkv` (queries, keys and values), `wo`, `gate_up` and `down`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.config import ModelConfig
from exporter.lowbit_weights import one_torch_thread
from exporter.model import Block, Transformer, rope_angles

T = TypeVar("T")
LINEARS = ("wqkv", "wo", "gate_up", "down")
RESIDUAL = ("wo", "down")  # whose outputs are added to the stream
MOST_WINDOWS_AT_ONCE = 4
MOMENT_BLOCKS = 4
# Weights and biases by the names in LINEARS.
Known = dict[str, tuple[Tensor, Tensor | None]]


def matrices(block: Block) -> dict[str, list[torch.nn.Linear]]:
    """The modules whose rows, one after the other, are each packed matrix."""
    attention, ffn = block.attention, block.feed_forward
    return {
        "wqkv": [attention.wq, attention.wk, attention.wv],
        "wo": [attention.wo],
        "gate_up": [ffn.w1, ffn.w3],
        "down": [ffn.w2],
    }


def joined(layers: list[torch.nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The layers' weights [N, K] and biases [N] as one."""
    weight = torch.cat([layer.weight.detach() for layer in layers]).float()
    if all(layer.bias is None for layer in layers):
        return weight, None
    biases = [torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
              for layer in layers]  # fmt: skip
    return weight, torch.cat([bias.to(weight.device) for bias in biases]).float()


class Rope:
    """Rotary tables [T, d], half-split pairs, and the causal mask [T, T] of a sliding window."""

    def __init__(self, config: ModelConfig, T: int):
        angles = rope_angles(config, T)
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.mask = None
        if config.sliding_window is not None and config.sliding_window < T:
            positions = torch.arange(T)
            distance = positions[:, None] - positions[None, :]
            self.mask = (distance >= 0) & (distance < config.sliding_window)

    def turn(self, x: Tensor, at: slice | int = slice(None)) -> Tensor:
        """x [..., T, d] at the positions `at`; [..., d] at one."""
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * self.cos[at] + turned * self.sin[at]


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x_BTD * torch.rsqrt((x_BTD * x_BTD).mean(-1, keepdim=True) + eps) * weight_D


def attention(qkv_BTN: Tensor, config: ModelConfig, rope: Rope) -> Tensor:
    """Causal attention [B, T, heads d] of the joined queries, keys and values."""
    B, T, _ = qkv_BTN.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.head_dim
    q, k, v = qkv_BTN.view(B, T, H + 2 * K, d).transpose(1, 2).split((H, K, K), dim=1)
    y = F.scaled_dot_product_attention(
        rope.turn(q), rope.turn(k), v,
        attn_mask=rope.mask, is_causal=rope.mask is None, enable_gqa=H != K,
    )  # fmt: skip
    return y.transpose(1, 2).reshape(B, T, H * d)


def silu_mul(gate_up_BTN: Tensor) -> Tensor:
    gate, up = gate_up_BTN.chunk(2, dim=-1)
    return F.silu(gate) * up


class Stream:
    """Windows [B, T, D] on their way through one block after another, held for all of a text at once.

    `enter` puts them before a block. `input(name, windows)` is what reaches a matrix of LINEARS;
    `go_on(name)` moves all windows past it with the weight and bias that `known[name]` holds by then,
    and `take(name, windows)` some, and returns their input: in the order of LINEARS, each once. The
    inputs of `wo` and `down` are made again each time, from the same place and with what `known` has
    for `wqkv` and `gate_up`: held for all windows they take more room than the streams.
    """

    def __init__(self, x_BTD: Tensor, config: ModelConfig, rope: Rope):
        self.x, self.config, self.rope = x_BTD, config, rope

    def enter(self, block: Block, known: Known) -> None:
        self.block, self.known = block, known

    def leave(self) -> None:
        """Let go of the block."""
        del self.block, self.known

    def input(self, name: str, windows: slice) -> Tensor:
        norm = self.block.attention_norm if name in ("wqkv", "wo") else self.block.ffn_norm
        normed = rms_norm(self.x[windows], norm.weight, self.config.norm_eps)
        if name == "wo":
            return attention(F.linear(normed, *self.known["wqkv"]), self.config, self.rope)
        if name == "down":
            return silu_mul(F.linear(normed, *self.known["gate_up"]))
        return normed

    def take(self, name: str, windows: slice) -> Tensor:
        """What reaches the matrix, of windows that are moved past it."""
        x = self.input(name, windows)
        if name in RESIDUAL:  # the others' outputs are made again where the next matrix reads them
            self.x[windows] += F.linear(x, *self.known[name])
        return x

    def go_on(self, name: str) -> None:
        if name in RESIDUAL:
            for _ in over_parts(lambda windows: self.take(name, windows), len(self.x)):
                pass


def float_weights(block: Block) -> Known:
    return {name: joined(layers) for name, layers in matrices(block).items()}


def last_hidden(model: Transformer, x: Tensor) -> Tensor:
    """What the output layer reads [..., D], of the last block's output."""
    h = rms_norm(x, model.norm.weight, model.config.norm_eps)
    return h if model.head is None else F.linear(h, model.head.weight)


def over_parts(work: Callable[[slice], T], windows: int) -> Iterator[T]:
    """`work` of a few windows at a time, on threads of ours; the results in order."""
    with one_torch_thread() as workers, ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, _parts(windows))


def sum_over_parts(
    inputs: Callable[[slice], T], products: Callable[[T], Tensor], windows: int
) -> Tensor:
    """The sum of `products(inputs(part))` over a few windows at a time, on threads of ours.

    The products' elements are rounded to bfloat16 where that is faster: for second moments, which are
    then those of rounded inputs. The inputs themselves are made in float32, at another time.
    """
    total, parts = torch.zeros(()), _parts(windows)
    with one_torch_thread() as workers, ThreadPoolExecutor(workers) as pool:
        for at in range(0, len(parts), workers):
            made = list(pool.map(inputs, parts[at : at + workers]))
            with _rounded_products():
                total = sum(pool.map(products, made), total)
            del made  # before the next are made
    return total


def second_moment(x: Tensor) -> Tensor:
    """x^T x [K, K] of x [n, K]: the half above the diagonal, in blocks, and its mirror image."""
    K = x.shape[1]
    found = x.new_empty(K, K)
    size = -(-K // MOMENT_BLOCKS)
    for start in range(0, K, size):
        end = min(start + size, K)
        found[start:end, start:] = x[:, start:end].t() @ x[:, start:]
        found[end:, start:end] = found[start:end, end:].t()
    return found


def _parts(windows: int) -> list[slice]:
    step = min(max(windows // 16, 1), MOST_WINDOWS_AT_ONCE)
    return [slice(at, at + step) for at in range(0, windows, step)]


@contextmanager
def _rounded_products() -> Iterator[None]:
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def block_output(
    block: Block, x: Tensor, config: ModelConfig, rope: Rope, linear: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """The block's output of x [B, T, D], `linear(name, inputs)` being the matrices of LINEARS."""
    normed = rms_norm(x, block.attention_norm.weight, config.norm_eps)
    x = x + linear("wo", attention(linear("wqkv", normed), config, rope))
    normed = rms_norm(x, block.ffn_norm.weight, config.norm_eps)
    return x + linear("down", silu_mul(linear("gate_up", normed)))


def run_block(block: Block, x_BTD: Tensor, known: Known, config: ModelConfig, rope: Rope) -> Tensor:
    """The block's output [B, T, D] with the weights `known`; `x_BTD` stays as it is."""

    def work(windows: slice) -> Tensor:
        return block_output(
            block, x_BTD[windows], config, rope, lambda name, x: F.linear(x, *known[name])
        )

    return torch.cat(list(over_parts(work, len(x_BTD))))
