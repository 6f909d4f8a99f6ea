"""The decoder a layer at a time over many windows of text, without caches.

Shapes: B windows of T tokens, D model width.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.lowbit.weights import one_torch_thread
from exporter.model.block import BRANCHES, Branch, run_layer
from exporter.model.decoder import Block
from exporter.quality.windows import Known, RotaryTables, WindowOperations

T = TypeVar("T")
MOST_WINDOWS_AT_ONCE = 4
MOMENT_BLOCKS = 4
MOST_HELD = 2**29  # bytes of inputs that a stream holds until it moves past their matrix


class Stream:
    """Windows [B, T, D] on their way through one block after another, held for all of a text at once.

    `enter` puts them before a block. `input(name, windows)` is what reaches a matrix of the block;
    `go_on(name)` moves all windows past it with the weight and bias that `known[name]` holds by then,
    and `take` and `through` some: in the order of the block's matrices, each once. A branch's last matrix
    moves the windows; its inputs are made from the place where the branch begins, with what `known` has for
    the matrices before, and may take more room than the windows: they are made again each time, but for those
    that `hold(name)` holds until `go_on(name)`.
    """

    def __init__(self, x_BTD: Tensor, positions: RotaryTables):
        self.x, self.positions = x_BTD, positions
        self._release()

    def enter(self, block: Block, known: Known) -> None:
        self.block, self.known = block, known
        self.ops = WindowOperations(block, self.positions)
        # What both branches of a parallel layer read: the first one moves the windows.
        self.start = self.x.clone() if block.layer.parallel else self.x

    def leave(self) -> None:
        """Let go of the block."""
        del self.block, self.known, self.ops, self.start
        self._release()

    def hold(self, name: str) -> None:
        """From now on inputs of the first windows are held, those that have room in MOST_HELD bytes."""
        self._release()
        if self.ends_branch(name):
            T, K = self.x.shape[1], self.block.matrices[name].columns
            self.room = torch.empty(min(MOST_HELD // (4 * T * K), len(self.x)), T, K)
            self.held = {name: {}}

    def _release(self) -> None:
        self.room = torch.empty(0)
        # By the first window and the last: the input, and the branch that waits for the output.
        self.held: dict[str, dict[tuple[int, int], tuple[Tensor, Branch]]] = {}

    def ends_branch(self, name: str) -> bool:
        """Whether the matrix is the last of its branch, whose end is added to the windows."""
        branch = self.block.matrices[name].branch
        return [m.name for m in self.block.matrices.values() if m.branch == branch][-1] == name

    def input(self, name: str, windows: slice) -> Tensor:
        return self._stopped_before(name, windows)[0]

    def _stopped_before(self, name: str, windows: slice) -> tuple[Tensor, Branch]:
        """The input of the matrix, and the branch that waits for its output."""
        held, at = self.held.get(name), (windows.start, windows.stop)
        if held is not None and at in held:
            return held[at]
        branch = BRANCHES[self.block.matrices[name].branch](self.block.layer, self.ops, self.start[windows])
        wanted, x = next(branch)
        while wanted != name:
            wanted, x = branch.send(F.linear(x, *self.known[wanted]))
        if held is None or windows.stop > len(self.room):
            return x, branch
        held[at] = self.room[windows].copy_(x), branch
        return held[at]

    def take(self, name: str, windows: slice) -> Tensor:
        """Return what reaches the matrix, of windows that are moved past it."""
        return self.through(name, windows)[0]

    def through(self, name: str, windows: slice) -> tuple[Tensor, Tensor | None]:
        """The same, and of a branch's last matrix the output, but for its bias."""
        x, branch = self._stopped_before(name, windows)
        if not self.ends_branch(name):  # its output is made again where the next matrix reads it
            return x, None
        weight, bias = self.known[name]
        output = F.linear(x, weight)
        try:
            branch.send(output if bias is None else output + bias)
        except StopIteration as end:
            self.x[windows] += end.value
        return x, output

    def go_on(self, name: str) -> None:
        if self.ends_branch(name):
            for _ in over_parts(lambda windows: self.take(name, windows), len(self.x)):
                pass
            self._release()


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
    """Return the sum [K, K] of `add_second_moment` with what it leaves out below the diagonal."""
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


def run_block(block: Block, x_BTD: Tensor, known: Known, positions: RotaryTables) -> Tensor:
    """The block's output [B, T, D] with the weights `known`; `x_BTD` stays as it is."""
    ops = WindowOperations(block, positions)

    def work(windows: slice) -> Tensor:
        return run_layer(
            block.layer, ops, x_BTD[windows], lambda name, x: F.linear(x, *known[name]), torch.add
        )

    return torch.cat(list(over_parts(work, len(x_BTD))))
