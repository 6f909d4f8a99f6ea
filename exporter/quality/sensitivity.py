"""Measure how much KL each matrix of a model adds, rounded alone at ANCHOR by each rounding.

To second order the KL of a small change of the logits is that of their Fisher information, which is
E[g g^T] of the gradient g of the loss of labels drawn from the model's own distribution (Martens,
arXiv 1412.1193, section 5). For a change D of one matrix of inputs x this is E[(g . D x)^2] / 2, g now with
respect to its outputs: one pass of text forward and one backward measure all matrices. Errors at
different positions are taken as independent of each other, as are those of different logits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.formats.packed_header import ROW_BLOCK
from exporter.lowbit.weights import QuantizedWeight, dequantize, quantize_linear, weight_format
from exporter.model.block import run_layer
from exporter.model.decoder import Block, Transformer
from exporter.quality.calibrated import table_moment
from exporter.quality.calibration import Calibration
from exporter.quality.choices import (
    ANCHOR,
    FORMATS,
    Choice,
    KLs,
    Shape,
    Unit,
    matrix_unit,
    scheme_of,
    table_unit,
)
from exporter.quality.gptq import gptq
from exporter.quality.layerwise import (
    Stream,
    add_second_moment,
    mirrored,
    over_parts,
    run_block,
    sum_over_parts,
)
from exporter.quality.windows import (
    Known,
    RotaryTables,
    WindowOperations,
    capped,
    embedded,
    float_weights,
    last_hidden,
)
from exporter.recipe.methods import PLAIN, ROUNDINGS, parse_method
from exporter.recipe.schemes import LinearScheme
from exporter.util.progress import Progress, Report

GRADIENT_WINDOWS = 16  # whose gradients are taken
MOMENT_WINDOWS = 2 * GRADIENT_WINDOWS
LOGIT_ROWS = 256  # of logits
SAMPLED_ROWS = 256  # of a matrix, for the errors of formats beside each other
LEAST_ERROR = 1e-6  # of a format, of that at ANCHOR; less is rounding
TABLE_BLOCKS = 48  # of a table's rows
LABEL_SEED = 1
# KL measured of a whole model over the sum of its matrices', on the same kind of text, by rounding. Of two
# fits of SmolLM2-135M off every grid to 4.5 bits (docs/results/quality.md, "Fits"): `retie+gptq`, 0.0177 over
# 0.0169 nats, and `retie+hqq`, 0.0663 over 0.0468; `rtn` is taken to be as `hqq`. Activations rounded to int8
# are in it. GPTQ's is smaller as each layer makes up for those before it, which one matrix alone does not
# show.
WHOLE_MODEL_FACTOR = {"rtn": 1.42, "hqq": 1.42, "gptq": 1.05}
SENSITIVITY_VERSION = 6  # of how they are measured: what another measured is not read


def windows_needed() -> int:
    """Count the windows of calibration text that `sensitivities` wants."""
    return MOMENT_WINDOWS + GRADIENT_WINDOWS


@torch.no_grad()
def sensitivities(
    model: Transformer,
    base: LinearScheme,
    shared: bool,
    calibration: Calibration,
    report: Report,
) -> list[Unit]:
    """Measure every matrix of `model`; returns each with its choices, in the order of the model; last
    `output`, and `embedding` where the two do not share one table. The roundings are those that look at no
    text, and GPTQ where the method of `base` has it.

    `calibration` has `windows_needed()` windows or more. The inputs' second moments are of
    MOMENT_WINDOWS of them, gradients of GRADIENT_WINDOWS others: on text that GPTQ has seen errors would look
    too small. Held in memory: a block and what each rounding changes of it, the inputs of all blocks
    for the second (bfloat16), and every matrix as GPTQ rounds it (a byte a weight).
    """
    return _Sensitivity(model, base, shared, calibration, report).units()


@dataclass
class _Forward:
    """What the pass forward leaves. Of the gradients' windows: every block's inputs [B, T, D] and the last
    one's output. Of the others: GPTQ's matrices by name, the second moment of the output's inputs (without
    GPTQ none), the formats' errors. Inputs and matrices are taken away, the last first, once they are
    read."""

    inputs: list[Tensor]
    last: Tensor
    by_gptq: dict[str, QuantizedWeight]
    moment: Tensor | None
    shape: Shape


@dataclass(frozen=True)
class _Top:
    """What the pass back begins with, of the gradients' windows: what the output layer reads [n, D], the
    logarithms of its softmax's denominators [n], and the loss's gradient [B, T, D] at the last block's
    output."""

    hidden: Tensor
    log_z: Tensor
    gradient: Tensor


class _Sensitivity:
    def __init__(
        self,
        model: Transformer,
        base: LinearScheme,
        shared: bool,
        calibration: Calibration,
        report: Report,
    ):
        self.model, self.config, self.base = model, model.config, base.plain()
        self.shared, self.report = shared, report
        self.roundings = ROUNDINGS if parse_method(base.method).rounding == "gptq" else PLAIN
        places = torch.arange(windows_needed())
        chosen = calibration.tokens[places * len(calibration.tokens) // windows_needed()]
        measured = places % (windows_needed() // GRADIENT_WINDOWS) == 0  # here and there, of all texts
        self.text, self.tokens = chosen[~measured], chosen[measured]
        self.positions = RotaryTables(self.config, self.tokens.shape[1])

    def units(self) -> list[Unit]:
        forward = self._forward()
        top = self._top(forward.last)
        layers, gradient, units = self.model.layers, top.gradient, []
        progress = Progress(len(layers))
        for i in reversed(range(len(layers))):
            gradient, made = self._block(i, layers[i], forward, gradient)
            units[:0] = made
            left = progress.left(len(layers) - i)
            self.report(f"measuring sensitivity: layer {i + 1} of {len(layers)}, {left}")
        return units + self._tables(top, gradient, forward)

    def _forward(self) -> _Forward:
        layers = self.model.layers
        text, x = self._stream(self.text), self._stream(self.tokens).x
        inputs, by_gptq, shape = [], {}, {}
        middle, with_gptq = len(layers) // 2, "gptq" in self.roundings
        progress = Progress(len(layers))
        for i in range(len(layers)):
            block = layers[i]
            inputs.append(x.bfloat16())
            known = float_weights(block)
            x = run_block(block, x, known, self.positions)
            moments = {}
            if with_gptq or i <= middle:
                text.enter(block, known)
                for name in block.matrices:
                    if with_gptq or i == middle:
                        moments[name] = self._moment(known[name][0].shape[1], partial(text.take, name))
                    else:
                        text.go_on(name)
                text.leave()
            if i == middle:
                shape = self._shape(known, moments)
            if with_gptq:
                for name in block.matrices:
                    weight = known[name][0]
                    by_gptq[f"layers.{i}.{name}"] = self._quantized(weight, moments[name], "gptq")
            del block, known, moments  # before the next ones are read
            self.report(progress.line("reading text: layer", i + 1))
        moment = None
        if with_gptq:
            moment = self._moment(
                self.config.dim, lambda windows: last_hidden(self.model, text.x[windows])
            )
        return _Forward(inputs, x, by_gptq, moment, shape)

    def _stream(self, tokens: Tensor) -> Stream:
        return Stream(embedded(self.model, tokens), self.positions)

    def _moment(self, K: int, inputs: Callable[[slice], Tensor]) -> Tensor:
        """Return E[x x^T] of a matrix's `inputs(windows)` [B, T, K]."""
        total = sum_over_parts(
            lambda windows: inputs(windows).flatten(0, 1), add_second_moment, (K, K), len(self.text)
        )
        return mirrored(total / self.text.numel())

    def _shape(self, known: Known, moments: dict[str, Tensor]) -> Shape:
        """Return each format's error beside ANCHOR's, the geometric mean over the matrices of one block."""
        return {rounding: self._shape_of(rounding, known, moments) for rounding in self.roundings}

    def _shape_of(
        self, rounding: str, known: Known, moments: dict[str, Tensor]
    ) -> dict[tuple[int, int], float]:
        logs, count = dict.fromkeys(FORMATS, 0.0), 0
        for name in known:
            weight = known[name][0]
            weight = weight[:: max(1, len(weight) // SAMPLED_ROWS)].contiguous()
            errors = {}
            for form in FORMATS:
                change = dequantize(self._quantized(weight, moments[name], rounding, form)) - weight
                errors[form] = float(((change @ moments[name]) * change).sum())
            if errors[ANCHOR] > 0:  # else it lies on the grid, and says nothing
                count += 1
                for form, error in errors.items():
                    logs[form] += math.log(max(error / errors[ANCHOR], LEAST_ERROR))
        if not count:
            return {(bits, size): 4.0 ** (ANCHOR[0] - bits) for bits, size in FORMATS}
        return {form: math.exp(total / count) for form, total in logs.items()}

    def _top(self, x_BTD: Tensor) -> _Top:
        generator = torch.Generator().manual_seed(LABEL_SEED)
        output = self.model.output.weight
        hidden, log_z, gradients = [], [], []
        for window in x_BTD:
            with torch.enable_grad():
                x = window.clone().requires_grad_()
                read = last_hidden(self.model, x)
            hidden.append(read.detach())
            of_read = []
            for rows in hidden[-1].split(LOGIT_ROWS):
                logits, slope = capped(F.linear(rows, output), self.config.logit_softcap)
                log_z.append(logits.logsumexp(-1))
                p = torch.softmax(logits, -1)
                label = torch.multinomial(p, 1, generator=generator)
                of_logits = p.scatter_add_(1, label, -torch.ones_like(p[:, :1]))
                of_read.append((of_logits * slope) @ output)
            gradients += torch.autograd.grad(read, x, torch.cat(of_read))
        return _Top(torch.cat(hidden), torch.cat(log_z), torch.stack(gradients))

    def _block(
        self, i: int, block: Block, forward: _Forward, gradient: Tensor
    ) -> tuple[Tensor, list[Unit]]:
        """Measure one block: returns the gradient at its input, of that at its output, and its units; takes
        what `forward` has of it."""
        inputs, known = forward.inputs.pop(), float_weights(block)
        changes = {}
        for name in block.matrices:
            weight, by_gptq = known[name][0], forward.by_gptq.pop(f"layers.{i}.{name}", None)
            for rounding in self.roundings:
                q = by_gptq if rounding == "gptq" else self._quantized(weight, None, rounding)
                changes[name, rounding] = dequantize(q) - weight

        ops = WindowOperations(block, self.positions)

        def work(windows: slice) -> tuple[Tensor, Tensor]:
            seen = {}  # inputs and outputs

            def linear(name: str, x: Tensor) -> Tensor:
                y = F.linear(x, *known[name])
                seen[name] = (x.detach(), y)
                return y

            with torch.enable_grad():
                x = inputs[windows].float().requires_grad_()
                y = run_layer(block.layer, ops, x, linear, torch.add)
                outputs = [output for _, output in seen.values()]
                at_input, *at_outputs = torch.autograd.grad(y, [x, *outputs], gradient[windows])
            g = dict(zip(seen, at_outputs, strict=True))
            return at_input, torch.stack([
                _half_square(g[name], F.linear(seen[name][0], change))
                for (name, _), change in changes.items()
            ])  # fmt: skip

        results = list(over_parts(work, len(self.tokens)))
        total = sum(kls for _, kls in results) / self.tokens.numel()
        kls: dict[str, KLs] = {name: {} for name in block.matrices}
        for (name, rounding), kl in zip(changes, total.tolist(), strict=True):
            kls[name][rounding] = kl * WHOLE_MODEL_FACTOR[rounding]
        units = [
            matrix_unit(f"layers.{i}.{name}", *known[name][0].shape, kls[name], forward.shape)
            for name in block.matrices
        ]
        return torch.cat([at_input for at_input, _ in results]), units

    def _tables(self, top: _Top, gradient: Tensor, forward: _Forward) -> list[Unit]:
        """Measure the output layer and the embedding, together where they share a table; `gradient` at the
        embedding's rows."""
        output, table = self.model.output.weight.detach(), self.model.tok_embeddings.weight.detach()
        self.report("measuring sensitivity: the embedding and the output")
        moment = forward.moment
        if self.shared and moment is not None:
            moment = table_moment(moment)
        quantized = {r: self._quantized(output, moment, r) for r in self.roundings}
        rows = -(-len(output) // (TABLE_BLOCKS * ROW_BLOCK)) * ROW_BLOCK
        blocks = [slice(at, min(at + rows, len(output))) for at in range(0, len(output), rows)]
        written, shares = [], []
        for at in blocks:
            logits, slope = capped(F.linear(top.hidden, output[at]), self.config.logit_softcap)
            p = torch.exp(logits - top.log_z[:, None])
            shares.append(float(p.sum() / len(p)))
            spread = p * (1 - p) * slope**2
            written.append({
                r: WHOLE_MODEL_FACTOR[r]
                * _kl_of_logits(spread, F.linear(top.hidden, dequantize(q.rows(at)) - output[at]))
                for r, q in quantized.items()
            })  # fmt: skip
        if not self.shared:
            quantized = {r: self._quantized(table, None, r) for r in PLAIN}
        scale = self.config.embedding_scale
        used, place = self.tokens.unique(return_inverse=True)
        whole = {
            r: _half_square(gradient, scale * F.embedding(place, dequantize(q.rows(used)) - table[used]))
            for r, q in quantized.items()
        }
        # A row of the embedding counts as the model expects its token: what a text of this length has of
        # rare ones says little.
        looked_up = [
            {r: WHOLE_MODEL_FACTOR[r] * float(kl) / self.tokens.numel() * share for r, kl in whole.items()}
            for share in shares
        ]
        columns, shape = output.shape[1], forward.shape
        if self.shared:
            both = [
                {r: kl + other[r] for r, kl in one.items()}
                for one, other in zip(written, looked_up, strict=True)
            ]
            return [table_unit("output", blocks, columns, both, shape)]
        return [
            table_unit("output", blocks, columns, written, shape),
            table_unit("embedding", blocks, columns, looked_up, shape),
        ]

    def _quantized(
        self, weight: Tensor, moment: Tensor | None, rounding: str, form: tuple[int, int] = ANCHOR
    ) -> QuantizedWeight:
        scheme = scheme_of(self.base, Choice(*form, rounding, 0, 0.0))
        if rounding == "gptq":
            return gptq(weight, moment, weight_format(scheme, weight.shape[1]))
        return quantize_linear(weight, scheme)


def _half_square(gradient: Tensor, change: Tensor) -> Tensor:
    """Return the sum of (g . d)^2 / 2 over all positions [..., N]."""
    return (gradient * change).sum(-1).double().square().sum() / 2


def _kl_of_logits(spread: Tensor, change: Tensor) -> float:
    """Return the mean over tokens of the sum of p (1 - p) d^2 / 2 over logits, both [n, rows]."""
    return float((spread * change.square()).sum()) / (2 * len(change))
