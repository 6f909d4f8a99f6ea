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

from exporter.lowbit.weights import one_torch_thread
from exporter.model.config import ModelConfig
from exporter.model.decoder import Block, Transformer, rope_angles

T = TypeVar("T")
LINEARS = ("wqkv", "wo", "gate_up", "down")
RESIDUAL = ("wo", "down")  # whose outputs are added to the stream
MOST_WINDOWS_AT_ONCE = 4
QUERIES_AT_ONCE = 128
MOMENT_BLOCKS = 4
MOST_HELD = 2**29  # bytes of inputs that a stream holds until it moves past their matrix
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
    """Rotary tables [T, d], half-split pairs, and the causal mask [T, T]: which keys a query sees."""

    def __init__(self, config: ModelConfig, T: int):
        angles = rope_angles(config, T)
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos(), angles.sin()
        positions = torch.arange(T)
        distance = positions[:, None] - positions[None, :]
        self.mask = distance >= 0
        if config.sliding_window is not None:
            self.mask &= distance < config.sliding_window

    def turn(self, x: Tensor, at: slice | int = slice(None)) -> Tensor:
        """x [..., T, d] at the positions `at`; [..., d] at one."""
        half, sin = x.shape[-1] // 2, self.sin[at]
        y = x * self.cos[at]
        y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        y[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return y


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x_BTD, weight_D.shape, weight_D, eps)


def attention(qkv_BTN: Tensor, config: ModelConfig, rope: Rope) -> Tensor:
    """Causal attention [B, T, heads d] of the joined queries, keys and values.

    A few queries at a time meet the keys that one of them sees: torch's kernel computes all that it is
    given, those that the mask hides, too.
    """
    B, T, _ = qkv_BTN.shape
    H, K, d = config.n_heads, config.n_kv_heads, config.head_dim
    qk, v = qkv_BTN.view(B, T, H + 2 * K, d).transpose(1, 2).split((H + K, K), dim=1)
    q, k = rope.turn(qk).split((H, K), dim=1)
    y = []
    for start in range(0, T, QUERIES_AT_ONCE):
        end = min(start + QUERIES_AT_ONCE, T)
        first = max(0, start + 1 - (config.sliding_window or T))
        y.append(F.scaled_dot_product_attention(
            q[:, :, start:end], k[:, :, first:end], v[:, :, first:end],
            attn_mask=rope.mask[start:end, first:end], enable_gqa=H != K,
        ))  # fmt: skip
    return torch.cat(y, dim=2).transpose(1, 2).reshape(B, T, H * d)


def silu_mul(gate_up_BTN: Tensor) -> Tensor:
    gate, up = gate_up_BTN.chunk(2, dim=-1)
    return F.silu(gate) * up


class Stream:
    """Windows [B, T, D] on their way through one block after another, held for all of a text at once.

    `enter` puts them before a block. `input(name, windows)` is what reaches a matrix of LINEARS;
    `go_on(name)` moves all windows past it with the weight and bias that `known[name]` holds by then,
    and `take` and `through` some: in the order of LINEARS, each once. The inputs of `wo` and `down` are
    made from the same place, with what `known` has for `wqkv` and `gate_up`, and take more room than the
    windows: they are made again each time, but for those that `hold(name)` holds until `go_on(name)`.
    """

    def __init__(self, x_BTD: Tensor, config: ModelConfig, rope: Rope):
        self.x, self.config, self.rope = x_BTD, config, rope
        self._release()

    def enter(self, block: Block, known: Known) -> None:
        self.block, self.known = block, known

    def leave(self) -> None:
        """Let go of the block."""
        del self.block, self.known
        self._release()

    def hold(self, name: str) -> None:
        """From now on inputs of the first windows are held, those that have room in MOST_HELD bytes."""
        self._release()
        if name in RESIDUAL:
            T, K = self.x.shape[1], matrices(self.block)[name][0].in_features
            self.room = torch.empty(min(MOST_HELD // (4 * T * K), len(self.x)), T, K)
            self.held = {name: {}}

    def _release(self) -> None:
        self.room = torch.empty(0)
        self.held: dict[str, dict[tuple[int, int], Tensor]] = {}  # by the first window and the last

    def input(self, name: str, windows: slice) -> Tensor:
        if name not in RESIDUAL:
            return self._normed(name, windows)
        held, at = self.held.get(name), (windows.start, windows.stop)
        if held is not None and at in held:
            return held[at]
        if name == "wo":
            qkv = F.linear(self._normed(name, windows), *self.known["wqkv"])
            x = attention(qkv, self.config, self.rope)
        else:
            x = silu_mul(F.linear(self._normed(name, windows), *self.known["gate_up"]))
        if held is None or windows.stop > len(self.room):
            return x
        held[at] = self.room[windows].copy_(x)
        return held[at]

    def _normed(self, name: str, windows: slice) -> Tensor:
        norm = self.block.attention_norm if name in ("wqkv", "wo") else self.block.ffn_norm
        return rms_norm(self.x[windows], norm.weight, self.config.norm_eps)

    def take(self, name: str, windows: slice) -> Tensor:
        """What reaches the matrix, of windows that are moved past it."""
        return self.through(name, windows)[0]

    def through(self, name: str, windows: slice) -> tuple[Tensor, Tensor | None]:
        """The same, and for one of RESIDUAL what it adds to the windows, but for its bias."""
        x = self.input(name, windows)
        if name not in RESIDUAL:  # its output is made again where the next matrix reads it
            return x, None
        weight, bias = self.known[name]
        added = F.linear(x, weight)
        self.x[windows] += added if bias is None else added + bias
        return x, added

    def go_on(self, name: str) -> None:
        if name in RESIDUAL:
            for _ in over_parts(lambda windows: self.take(name, windows), len(self.x)):
                pass
            self._release()


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
    inputs: Callable[[slice], T], add: Callable[[T, Tensor], None], shape: tuple[int, int], windows: int
) -> Tensor:
    """The sum [shape] of what `add(inputs(part), total)` adds to `total`, over a few windows at a time,
    on threads of ours; each has a total of its own, and inputs of two parts.

    The products' elements are rounded to bfloat16 where that is faster: for second moments, which are
    then those of rounded inputs. The inputs themselves are made in float32, at another time.
    """
    parts = _parts(windows)
    with one_torch_thread() as workers, ThreadPoolExecutor(workers) as pool:
        totals, step = [torch.zeros(shape) for _ in range(min(workers, len(parts)))], 2 * workers

        def add_all(share: list[T], total: Tensor) -> None:
            for made in share:
                add(made, total)

        for at in range(0, len(parts), step):
            made = list(pool.map(inputs, parts[at : at + step]))
            shares = [made[worker :: len(totals)] for worker in range(len(totals))]
            with _rounded_products():
                list(pool.map(add_all, shares, totals))
            del made, shares  # before the next are made
        return sum(totals[1:], totals[0])


def add_second_moment(x: Tensor, total: Tensor) -> None:
    """Add x^T x of x [n, K] to `total` [K, K], in blocks on the diagonal and above it: see `mirrored`."""
    for start, end in _moment_blocks(len(total)):
        total[start:end, start:] += x[:, start:end].t() @ x[:, start:]


def mirrored(total: Tensor) -> Tensor:
    """The same [K, K], with what `add_second_moment` leaves out below the diagonal."""
    for start, end in _moment_blocks(len(total)):
        total[end:, start:end] = total[start:end, end:].t()
    return total


def _moment_blocks(K: int) -> list[tuple[int, int]]:
    size = -(-K // MOMENT_BLOCKS)
    return [(start, min(start + size, K)) for start in range(0, K, size)]


def _parts(windows: int) -> list[slice]:
    step = min(max(windows // 16, 1), MOST_WINDOWS_AT_ONCE)
    return [slice(at, min(at + step, windows)) for at in range(0, windows, step)]


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
