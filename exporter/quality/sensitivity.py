"""What each matrix costs and loses in each format, by each rounding.

A matrix's KL is measured with it alone rounded, at ANCHOR and by each rounding in turn; at the other
formats it goes with the squared error of the outputs, tr(D H D^T), as formats' errors compare on a few
matrices: KL is quadratic in small changes of the logits, and those are linear in small changes of one
matrix's outputs.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from exporter.artifact import written_whole
from exporter.divergence import divergence, log_probabilities
from exporter.lowbit_weights import dequantize, quantize_linear, weight_format
from exporter.methods import PLAIN, ROUNDINGS, parse_method
from exporter.model import Transformer
from exporter.packed_header import laid_out
from exporter.quality.calibration import Calibration
from exporter.quality.gptq import gptq
from exporter.quality.layerwise import (
    LINEARS,
    Known,
    Rope,
    Stream,
    float_weights,
    last_hidden,
    over_parts,
    run_block,
)
from exporter.schemes import DEFAULT_METHOD, LinearScheme

Report = Callable[[str], None]
WINDOWS = 2
ROWS_AT_ONCE = 256
SAMPLED_ROWS = 256  # of a matrix, for the errors of formats beside each other
MOMENT_WINDOWS = 32
# What GPTQ leaves of a matrix's KL once each layer makes up for those before it, which rounding one
# matrix alone does not show: measured over predicted KL of two whole fits of SmolLM2, 0.73 both, by two
# rounds of refit and descent.
GPTQ_LEAVES = 0.73
SENSITIVITY_VERSION = 5  # of how they are measured: what another measured is not read
# (bits, group size), without zero points, with the scales of `scale_dtype`: small groups follow the
# weights better for the same room.
FORMATS = tuple((bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64))
ANCHOR = (4, 64)
# Of each rounding, each format's squared error of the outputs, of that at ANCHOR.
Shape = dict[str, dict[tuple[int, int], float]]


@dataclass(frozen=True)
class Choice:
    """A format of one matrix and what rounds it: its packed size, and the KL, in nats, that it adds."""

    bits: int
    group_size: int
    rounding: str
    bytes: int
    kl: float


@dataclass(frozen=True)
class Unit:
    name: str
    choices: tuple[Choice, ...]


def read_units(path: Path) -> list[Unit] | None:
    """What `write_units` wrote; None where there is nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [Unit(name, tuple(Choice(*c) for c in choices)) for name, choices in found.items()]
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_units(path: Path, units: list[Unit]) -> None:
    """As JSON, whole or not at all."""
    content = {unit.name: [astuple(choice) for choice in unit.choices] for unit in units}
    with written_whole(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def scheme_of(base: LinearScheme, choice: Choice) -> LinearScheme:
    """`choice` with the transforms of `base`."""
    method = parse_method(base.method).rounded_by(choice.rounding)
    return _scheme(replace(base, method=method), choice.bits, choice.group_size)


def _scheme(base: LinearScheme, bits: int, group_size: int) -> LinearScheme:
    return replace(
        base, bitwidth=bits, groupsize=group_size, has_weight_zeros=False,
        scale_dtype=scale_dtype(bits), layers=(),
    )  # fmt: skip


def scale_dtype(bits: int) -> str:
    """int8 costs half; at 8 bits a scale must be more exact than a 127th of its row's largest."""
    return "int8" if bits < 8 else "float16"


def packed_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """Of a matrix as `scheme_of` has it."""
    return laid_out("integer", bits, group_size, "none", scale_dtype(bits), 0, rows, columns).bytes


@torch.no_grad()
def sensitivities(
    model: Transformer,
    base: LinearScheme,
    shared: bool,
    calibration: Calibration,
    report: Report,
) -> list[Unit]:
    """Every matrix of `model` with its choices, in the order of the model; last `output`, and
    `embedding` where the two do not share one table. The roundings are those that look at no text,
    and GPTQ where the method of `base` has it.

    The inputs' second moments are of MOMENT_WINDOWS windows of `calibration`; KLs are measured on
    WINDOWS others, which it holds out: on text that GPTQ has seen they would look too small.
    """
    return _Sensitivity(model, base, shared, calibration, report).units()


def _unit(name: str, weight: Tensor, kls: dict[str, float], shape: Shape) -> Unit:
    """`kls` at ANCHOR, by roundings."""
    kls = {r: max(kl, 0.0) * (GPTQ_LEAVES if r == "gptq" else 1.0) for r, kl in kls.items()}
    return Unit(
        name,
        tuple(
            Choice(bits, size, rounding, packed_bytes(*weight.shape, bits, size), kl * factor)
            for rounding, kl in kls.items()
            for (bits, size), factor in shape[rounding].items()
        ),
    )


class _Sensitivity:
    def __init__(self, model, base, shared, calibration, report):
        self.model, self.config, self.base = model, model.config, base.plain()
        self.blocks = list(model.layers)  # each is run again for every matrix before it
        self.shared, self.report = shared, report
        self.roundings = ROUNDINGS if parse_method(base.method).rounding == "gptq" else PLAIN
        self.text = calibration.tokens[:MOMENT_WINDOWS]
        self.tokens = calibration.held_out[:WINDOWS]
        self.rope = Rope(self.config, self.tokens.shape[1])

    def units(self) -> list[Unit]:
        layers = self.blocks
        moments, hidden_moment = self._moments()
        stream = self._stream(self.tokens)
        inputs = []
        for block in layers:
            inputs.append(stream.x)
            stream.x = run_block(block, stream.x, float_weights(block), self.config, self.rope)
        hidden = self._hidden(stream.x)
        self.expected = [log_probabilities(logits) for logits in self._logits(hidden)]
        shape = self._shape(layers[len(layers) // 2], moments[len(layers) // 2])
        units, start = [], time.monotonic()
        for i, block in enumerate(layers):
            known = float_weights(block)
            for name in LINEARS:
                weight, bias = known[name]
                kls = {}
                for rounding in self.roundings:
                    rounded = self._rounded(weight, moments[i][name], rounding, *ANCHOR)
                    changed: Known = {**known, name: (rounded, bias)}
                    x = run_block(block, inputs[i], changed, self.config, self.rope)
                    kls[rounding] = self._kl_after(i + 1, x)
                units.append(_unit(f"layers.{i}.{name}", weight, kls, shape))
            moments[i] = {}
            left = (time.monotonic() - start) / (i + 1) * (len(layers) - i - 1)
            self.report(f"measuring sensitivity: layer {i + 1} of {len(layers)}, {left:.0f} s left")
        return units + self._ends(hidden, hidden_moment, shape)

    def _stream(self, tokens: Tensor) -> Stream:
        x = F.embedding(tokens, self.model.tok_embeddings.weight)
        return Stream(x, self.config, self.rope)

    def _moments(self) -> tuple[list[dict[str, Tensor]], Tensor]:
        """E[x x^T] of every matrix's inputs, by layer, and of the output's."""
        stream, found = self._stream(self.text), []
        for i, block in enumerate(self.blocks):
            stream.enter(block, float_weights(block))
            found.append({})
            for name in LINEARS:
                found[-1][name] = self._moment(lambda at, n=name: stream.input(n, at))
                stream.go_on(name)
            if i % 10 == 9:
                self.report(f"reading text: layer {i + 1} of {len(self.blocks)}")
        return found, self._moment(lambda at: self._hidden(stream.x[at]))

    def _moment(self, value: Callable[[slice], Tensor]) -> Tensor:
        def work(windows: slice) -> Tensor:
            x = value(windows)
            x = x.reshape(-1, x.shape[-1])
            return x.t() @ x

        return sum(over_parts(work, len(self.text))) / self.text.numel()

    def _shape(self, block, moments: dict[str, Tensor]) -> Shape:
        """The geometric mean over the matrices of `block`, the middle layer."""
        known = float_weights(block)
        return {rounding: self._shape_of(rounding, known, moments) for rounding in self.roundings}

    def _shape_of(self, rounding: str, known: Known, moments: dict[str, Tensor]):
        logs = dict.fromkeys(FORMATS, 0.0)
        for name in LINEARS:
            weight = known[name][0]
            weight = weight[:: max(1, len(weight) // SAMPLED_ROWS)].contiguous()
            for form in FORMATS:
                difference = self._rounded(weight, moments[name], rounding, *form) - weight
                logs[form] += math.log(float(((difference @ moments[name]) * difference).sum()))
        return {form: math.exp((logs[form] - logs[ANCHOR]) / len(LINEARS)) for form in FORMATS}

    def _ends(self, hidden: Tensor, moment: Tensor, shape: Shape) -> list[Unit]:
        """The output layer, and the embedding, together where they share a table."""
        table, output = self.model.tok_embeddings.weight.detach(), self.model.output.weight.detach()
        of_output = {}
        for rounding in self.roundings:
            rounded = self._rounded(output, moment, rounding, *ANCHOR)
            of_output[rounding] = self._kl(self._logits(hidden, rounded))
        used, place = self.tokens.unique(return_inverse=True)
        of_table = {}
        for rounding in PLAIN:
            rows = self._rounded(table[used], moment, rounding, *ANCHOR)
            of_table[rounding] = self._kl_after(0, F.embedding(place, rows))
        if self.shared:
            # GPTQ of the output's inputs says nothing of single rows: they count as rounded.
            both = {r: kl + of_table.get(r, of_table[DEFAULT_METHOD]) for r, kl in of_output.items()}
            return [_unit("output", output, both, shape)]
        return [_unit("output", output, of_output, shape), _unit("embedding", table, of_table, shape)]

    def _rounded(
        self, weight: Tensor, moment: Tensor, rounding: str, bits: int, size: int
    ) -> Tensor:
        scheme = _scheme(replace(self.base, method=rounding), bits, size)
        if rounding == "gptq":
            return dequantize(gptq(weight, moment, weight_format(scheme, weight.shape[1])))
        return dequantize(quantize_linear(weight, scheme))

    def _kl_after(self, first: int, x: Tensor) -> float:
        for block in self.blocks[first:]:
            x = run_block(block, x, float_weights(block), self.config, self.rope)
        return self._kl(self._logits(self._hidden(x)))

    def _hidden(self, x: Tensor) -> Tensor:
        """What the output layer reads [tokens, D]."""
        return last_hidden(self.model, x).flatten(0, 1)

    def _logits(self, hidden: Tensor, output: Tensor | None = None):
        weight = self.model.output.weight if output is None else output
        for rows in hidden.split(ROWS_AT_ONCE):
            yield F.linear(rows, weight)

    def _kl(self, logits) -> float:
        total = count = 0
        for log_p, rows in zip(self.expected, logits, strict=True):
            kl = divergence(log_p, rows).kl
            total, count = total + float(kl.sum()), count + len(kl)
        return total / count
