"""Compute a layer: written once, for every way to run it.

A layer is a sequence of branches, each added to the residual stream. A branch is a generator over few
operations: it yields `(matrix, input)` for each multiplication by a matrix of `model.matrices`, and
`(matrix, input, routes)` where that is one of experts, is sent the output, and returns what it adds. So
whoever runs it decides what a matrix is (float weights, packed ones, one being calibrated) and may stop
before any of them; the operations decide what the values are (eager tensors, `torch.ops.lowbit` calls, many
windows of text).
"""

from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from exporter.model.config import LayerSpec
from exporter.model.matrices import ROUTER, feed_forward_input

X = TypeVar("X")
Branch = Generator[tuple[str, X] | tuple[str, X, X], X, X]
Linear = Callable[..., X]  # of what a branch yields


class Operations(Protocol[X]):
    """A layer's operations beside its matrices; names are those of `model.matrices`."""

    def norm(self, name: str, x: X) -> X:
        """The norm with the weight `name`, of the kind that the layer has."""

    def attend(self, qkv: X) -> X:
        """Attention of the joined queries, keys and values: norm of the first two, rotation, scores, softmax,
        weighted sum of values, gate, as the layer's AttentionSpec says."""

    def activate(self, gate_up: X) -> X:
        """The activation of the gate, times what is beside it, or of what stands alone, as the layer's
        FeedForwardSpec says."""

    def route(self, logits: X) -> X:
        """The routes of each token by the router's logits: the numbers of the experts that it chose, then the
        factors of what they make."""

    def dispatch(self, x: X, routes: X) -> X:
        """The rows of x, each once for each expert that its token chose, in the order that the experts'
        matrices take."""

    def combine(self, y: X, routes: X) -> X:
        """The sum of what a token's experts made, times their factors."""


def attention(layer: LayerSpec, ops: Operations[X], x: X) -> Branch[X]:
    # The values have no names: a stopped generator would hold them.
    y = yield "wo", _sub_norm(
        layer, ops, "attention_sub_norm",
        ops.attend((yield "wqkv", _norm_in(layer, ops, "attention_norm", x))),
    )  # fmt: skip
    return ops.norm("attention_out_norm", y) if layer.norm_out else y


def feed_forward(layer: LayerSpec, ops: Operations[X], x: X) -> Branch[X]:
    branch = _dense if layer.feed_forward.experts is None else _experts
    y = yield from branch(layer, ops, x)
    return ops.norm("ffn_out_norm", y) if layer.norm_out else y


def _dense(layer: LayerSpec, ops: Operations[X], x: X) -> Branch[X]:
    first, norm = feed_forward_input(layer)
    return (yield "down", _sub_norm(
        layer, ops, "ffn_sub_norm", ops.activate((yield first, _norm_in(layer, ops, norm, x))),
    ))  # fmt: skip


def _experts(layer: LayerSpec, ops: Operations[X], x: X) -> Branch[X]:
    first, norm = feed_forward_input(layer)
    x = _norm_in(layer, ops, norm, x)
    routes = ops.route((yield ROUTER, x))
    y = yield first, ops.dispatch(x, routes), routes
    return ops.combine((yield "down", ops.activate(y), routes), routes)


BRANCHES = {"attention": attention, "feed_forward": feed_forward}  # in order; `Matrix.branch` names one


def run_branch(branch: Branch[X], linear: Linear[X]) -> X:
    """Run a branch with `linear(matrix, input)` for its matrices; returns what it adds to the stream."""
    try:
        wanted = next(branch)
        while True:
            wanted = branch.send(linear(*wanted))
    except StopIteration as end:
        return end.value


def run_layer(
    layer: LayerSpec, ops: Operations[X], x: X, linear: Linear[X], add: Callable[[X, X], X]
) -> X:
    """Return the layer's output of the residual stream `x`."""
    start = x
    for branch in BRANCHES.values():
        x = add(x, run_branch(branch(layer, ops, start if layer.parallel else x), linear))
    return x


def _sub_norm(layer: LayerSpec, ops: Operations[X], name: str, x: X) -> X:
    return ops.norm(name, x) if layer.sub_norms else x


def _norm_in(layer: LayerSpec, ops: Operations[X], name: str, x: X) -> X:
    return ops.norm(name, x) if layer.norm_in else x
