"""Quantize a model's matrices one layer after another, each for the inputs that reach it.

Two streams of activations go through the calibration text side by side: one of the float model, one
of the model as far as it is quantized. A matrix is rounded for the inputs of the second, and aims at
the outputs of the first (GPTAQ, arXiv 2504.02692): its target is
W + CORRECTION E[(W x - W q) q^T] H^-1, H = E[q q^T], of quantized inputs q and float ones x.
Held in memory: one layer's weights, both streams, one matrix's second moments (four matrices' where
columns are scaled), one a thread while they are summed, and its inputs, as far as layerwise.MOST_HELD.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.lowbit.pack import shares_table
from exporter.lowbit.weights import (
    QuantizedWeight,
    dequantize,
    quantize_linear,
    quantize_rows,
    weight_format,
)
from exporter.model.decoder import Block, Transformer
from exporter.quality.checkpointing import Work
from exporter.quality.gptq import cholesky, gptq
from exporter.quality.layerwise import Stream, add_second_moment, mirrored, sum_over_parts
from exporter.quality.transforms import (
    awq_factors,
    residual_rotation,
    retie,
    rotate_block,
    rotate_ends,
    smooth_block,
    smoothquant_factors,
)
from exporter.quality.windows import RotaryTables, apply_norm, embedded, float_weights
from exporter.recipe.methods import parse_method
from exporter.recipe.model_limits import check_rotation
from exporter.recipe.schemes import EmbeddingScheme, LinearScheme
from exporter.util.progress import Progress, Report

ColumnFactors = dict[str, Tensor]  # [K] of each packed matrix
# Of a matrix: quantized inputs [B, T, K], and float inputs [B, T, K] or outputs [B, T, N].
Pair = tuple[Tensor, Tensor]
# How much of the difference between the streams a matrix makes up for. Less KL than 0, 0.25, 0.75 and 1 on
# SmolLM2-135M at 2 to 5 bits (docs/decisions.md, "Quality"): all of it fits the calibration text too well.
CORRECTION = 0.5
CORRECTION_DAMPING = 0.01
# Of a table that is embedding and output at once, errors of rows count by themselves, too, as this share of
# the mean second moment of the output's inputs.
EMBEDDING_SHARE = 0.1


@dataclass(frozen=True)
class Moments:
    """Second moments of a matrix's inputs: `hessian` H = E[q q^T], float32 [K, K]; `cross` with its float
    inputs, E[x q^T] [K, K], or, with `by_outputs`, with its float outputs but for the bias, E[W x q^T] [N,
    K]."""

    hessian: Tensor
    cross: Tensor
    by_outputs: bool = False


@dataclass(frozen=True)
class Sizes:
    """The sizes of a matrix's inputs in the float model: E[x x^T] [K, K], E|x| and max |x| [K]."""

    hessian: Tensor
    mean: Tensor
    largest: Tensor


def apply_method(
    model: Transformer,
    linear: LinearScheme,
    embedding: EmbeddingScheme | None,
    tokens_BT: Tensor | None,
    work: Work,
    report: Report,
) -> dict[str, QuantizedWeight]:
    """Do what `linear.method` says beyond `transform`, which `model`, of `stream_model`, has been through;
    returns the matrices that it rounded, by the packed model's names (`layers.0.wqkv`, ..., `output`).

    `tokens_BT` int64 [B, T] is the calibration text, needed by the methods of `methods.CALIBRATED`.
    `work` keeps finished layers, so that an interrupted run goes on where it was.
    Raises ValueError where the model does not allow the method.
    """
    if not linear.needs_calibration():
        return {}
    with torch.no_grad():
        return _Run(model, linear, embedding, tokens_BT, work, report).all()


@torch.no_grad()
def transform(model: Transformer, linear: LinearScheme, report: Report) -> None:
    """Make the changes to `model`, of `stream_model`, that need no text: `retie` and `rotate`.

    Raises ValueError where the model does not allow one.
    """
    method = parse_method(linear.method)
    if "retie" in method.transforms and retie(model) is None:
        report("  retie: embedding and output are one table already")
    if "rotate" in method.transforms:
        check_rotation(model.config)
        rotation = residual_rotation(model.config)
        rotate_ends(model, rotation)
        model.layers.then(lambda block, i: rotate_block(block, rotation, i))


class _Run:
    def __init__(
        self,
        model: Transformer,
        linear: LinearScheme,
        embedding: EmbeddingScheme | None,
        tokens_BT: Tensor,
        work: Work,
        report: Report,
    ):
        self.model, self.config, self.method = model, model.config, parse_method(linear.method)
        self.by_gptq = any(method.rounding == "gptq" for method in linear.methods())
        self.linear, self.embedding, self.report, self.work = linear, embedding, report, work
        self.positions = RotaryTables(self.config, tokens_BT.shape[1])
        self.tokens = tokens_BT

    def all(self) -> dict[str, QuantizedWeight]:
        layers = self.model.layers
        scaled = "awq" in self.method.transforms or "smoothquant" in self.method.transforms
        found, first, at = self.work.resume(scaled)
        if first == len(layers):
            self.report("every layer is calibrated already")
        elif first:
            self.report(f"going on at layer {first + 1} of {len(layers)}")
        quantized, exact = (Stream(x, self.positions) for x in at or self._embedded())
        if scaled:
            self.factors = {i: self.work.factors(i) for i in range(first)}
            layers.then(partial(_scale, self.factors))
        progress = Progress(len(layers), first)
        for i in range(first, len(layers)):
            block = layers[i]
            if scaled:
                self._smooth(i, block, exact)
            made = self._layer(i, block, quantized, exact)
            found.update(made)
            self.work.keep(i, made, (quantized.x, exact.x))
            self.report(progress.line("calibrating: layer", i + 1))
            del block  # before the next one is read
        if self._rounding("output") == "gptq":
            found["output"] = self._output(quantized, exact)
        return found

    def _embedded(self) -> tuple[Tensor, Tensor]:
        """Return the streams [B, T, D] at the first layer: quantized, float."""
        table, scale = self.model.tok_embeddings.weight, self.config.embedding_scale
        exact = embedded(self.model, self.tokens)
        if self.embedding is None or not self.by_gptq:
            return exact.clone(), exact
        used, place = self.tokens.unique(return_inverse=True)
        return F.embedding(place, quantize_rows(table, used, self.embedding) * scale), exact

    def _layer(
        self, i: int, block: Block, quantized: Stream, exact: Stream
    ) -> dict[str, QuantizedWeight]:
        """Quantize one block for its streams, and move both past it."""
        weights, rounded_weights, made = float_weights(block), {}, {}
        exact.enter(block, weights)
        if not self.by_gptq:
            for name in block.matrices:
                exact.go_on(name)
            exact.leave()
            return {}
        quantized.enter(block, rounded_weights)
        for name in block.matrices:
            weight, bias = weights[name]
            made[f"layers.{i}.{name}"] = q = self._rounded(i, name, weight, quantized, exact)
            rounded_weights[name] = (dequantize(q), bias)
            quantized.go_on(name)
        quantized.leave()
        exact.leave()
        return made

    def _moments(self, name: str, weight: Tensor, quantized: Stream, exact: Stream) -> Moments:
        """Sum the moments of a matrix [N, K], past which `exact` has been moved then. The float outputs of
        a branch's last one are at hand, and no wider than its inputs, as a rule: they take the place of
        those."""
        quantized.hold(name)
        by_outputs, (N, K) = exact.ends_branch(name), weight.shape

        def pair(windows: slice) -> Pair:
            q = quantized.input(name, windows)
            x, output = exact.through(name, windows)
            return q, (output if by_outputs else x)

        hessian, cross = self._moments_of(pair, K, N if by_outputs else K)
        return Moments(hessian, cross, by_outputs)

    def _moments_of(self, pair: Callable[[slice], Pair], K: int, M: int) -> tuple[Tensor, Tensor]:
        """Return E[q q^T] [K, K] and E[y q^T] [M, K] of what `pair(windows)` makes."""

        def add(made: Pair, total: Tensor) -> None:
            q, y = (values.flatten(0, 1) for values in made)
            add_second_moment(q, total[:K])
            total[K:] += y.t() @ q

        total = sum_over_parts(pair, add, (K + M, K), len(self.tokens)) / self.tokens.numel()
        return mirrored(total[:K]), total[K:]

    def _sizes(self, name: str, K: int, exact: Stream) -> Sizes:
        """Measure the inputs of a matrix, past which `exact` has been moved then."""
        largest = []

        def inputs(windows: slice) -> Tensor:
            x = exact.take(name, windows)
            largest.append(x.abs().amax((0, 1)))
            return x.flatten(0, 1)

        def add(x: Tensor, total: Tensor) -> None:
            add_second_moment(x, total[:K])
            total[K] += x.abs().sum(0)

        total = sum_over_parts(inputs, add, (K + 1, K), len(self.tokens)) / self.tokens.numel()
        return Sizes(mirrored(total[:K]), total[K], torch.stack(largest).amax(0))

    def _rounding(self, name: str) -> str:
        return parse_method(self.linear.for_layer(name).method).rounding

    def _rounded(
        self, i: int, name: str, weight: Tensor, quantized: Stream, exact: Stream
    ) -> QuantizedWeight:
        """Round a matrix for its streams; moves `exact` past it."""
        scheme = self.linear.for_layer(f"layers.{i}.{name}")
        if self._rounding(f"layers.{i}.{name}") != "gptq":
            exact.go_on(name)
            return quantize_linear(weight, scheme)
        moments = self._moments(name, weight, quantized, exact)
        form = weight_format(scheme, weight.shape[1])
        return gptq(corrected(weight, moments), moments.hessian, form)

    def _smooth(self, i: int, block: Block, exact: Stream) -> None:
        before, weights = exact.x.clone(), float_weights(block)
        exact.enter(block, weights)
        sizes = {}
        for name in block.matrices:
            sizes[name] = self._sizes(name, weights[name][0].shape[1], exact)
        exact.x = before
        factors: ColumnFactors = {}

        def choose(name: str, weight: Tensor) -> Tensor:
            known = sizes[name]
            if "smoothquant" in self.method.transforms:
                factors[name] = smoothquant_factors(known.largest, weight)
            else:
                scheme = self.linear.for_layer(f"layers.{i}.{name}").plain()
                factors[name] = awq_factors(
                    known.mean, weight, known.hessian,
                    lambda scaled: dequantize(quantize_linear(scaled, scheme)),
                )  # fmt: skip
            return factors[name]

        smooth_block(block, choose)
        self.work.keep_factors(i, factors)
        self.factors[i] = factors

    def _output(self, quantized: Stream, exact: Stream) -> QuantizedWeight:
        """Round the output layer. The matrix before it, where there is one, makes up for what the last layers
        got wrong; a table that is the embedding, too, stays as it is."""
        self.report("calibrating: the output layer")
        model, D = self.model, self.config.dim
        moments = Moments(*self._moments_of(
            lambda windows: tuple(apply_norm(model.norm, s.x[windows]) for s in (quantized, exact)), D, D,
        ))  # fmt: skip
        weight, hessian = model.output.weight.detach(), moments.hessian
        shared = shares_table(model, self.linear, self.embedding)
        if model.head is not None:
            head = corrected(model.head.weight.detach(), moments)
            model.head.weight = torch.nn.Parameter(head, requires_grad=False)
            hessian = head @ hessian @ head.t()
        elif not shared:
            weight = corrected(weight, moments)
        if shared:
            hessian = table_moment(hessian)
        form = weight_format(self.linear.for_layer("output"), D)
        return gptq(weight, hessian, form)


def table_moment(hessian: Tensor) -> Tensor:
    """Return the second moment [K, K] that a table that is embedding and output at once is rounded for, of
    that of the output's inputs."""
    return hessian + EMBEDDING_SHARE * hessian.diagonal().mean() * torch.eye(len(hessian))


def _scale(factors: dict[int, ColumnFactors], block: Block, i: int) -> None:
    """Scale a block that is read again as it was scaled."""
    if i in factors:
        smooth_block(block, lambda name, _: factors[i][name])


def corrected(weight: Tensor, moments: Moments) -> Tensor:
    """Return the target [N, K] for quantized inputs that comes nearer to the float model's outputs.

    Raises SingularHessian when the second moment has values that are not finite.
    """
    H = moments.hessian
    if moments.by_outputs:
        return weight + _correction(moments.cross - weight @ H, H)
    return torch.addmm(weight, weight, _correction(moments.cross - H, H))


def _correction(difference: Tensor, hessian: Tensor) -> Tensor:
    """Return CORRECTION difference H^-1 [M, K]; in float64, H being nearly singular."""
    H = hessian.double()
    H.diagonal().add_(CORRECTION_DAMPING * H.diagonal().mean().clamp(min=1e-12))
    moved = torch.cholesky_solve(difference.double().t(), cholesky(H)).t()
    return (CORRECTION * moved).float()
