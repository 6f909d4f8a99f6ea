"""What each matrix costs and loses at each format.

A matrix's KL is measured with it alone rounded, at ANCHOR; at the other formats it goes with the
squared error of the matrix's outputs, tr(D H D^T), which is measured at each: KL is quadratic in small
changes of the logits, and those are linear in small changes of one matrix's outputs.
"""

import json
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
from exporter.model import Transformer
from exporter.quality.gptq import gptq
from exporter.quality.layerwise import (
    LINEARS,
    Known,
    Rope,
    Stream,
    float_weights,
    rms_norm,
    run_block,
)
from exporter.schemes import LinearScheme

Report = Callable[[str], None]
WINDOWS = 2
ROWS_AT_ONCE = 256
SAMPLED_ROWS = 256  # of a matrix, for the errors of formats beside each other
# (bits, group size); with zero points up to 4 bits, as their cost is small and their gain is not.
FORMATS = tuple((bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64))
ANCHOR = (4, 64)
SAMPLED_FOR_GPTQ = ("wqkv", "down")  # of the middle layer: what GPTQ saves of the error


@dataclass(frozen=True)
class Choice:
    """A format of one matrix: its packed size, and the KL, in nats, that it adds."""

    bits: int
    group_size: int
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


def scheme_of(base: LinearScheme, bits: int, group_size: int) -> LinearScheme:
    return replace(
        base, bitwidth=bits, groupsize=group_size, has_weight_zeros=bits <= 4, layers=()
    )


def packed_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """Of a matrix with zero points up to 4 bits: kernels/layout.h."""
    panels, groups = -(-rows // 16), -(-columns // group_size)
    padded = -(-groups * group_size // 32) * 32
    zeros = 0 if bits > 4 else _to_64(-(-groups // 2) * 16)
    panel = 64 + _to_64(groups * 32) + zeros + padded // 32 * bits * 64
    return 64 + panels * panel


def _to_64(size: int) -> int:
    return -(-size // 64) * 64


@torch.no_grad()
def sensitivities(
    model: Transformer, base: LinearScheme, shared: bool, tokens_BT: Tensor, report: Report
) -> list[Unit]:
    """Every matrix of `model` with its choices, in the order of the model; last `output`, and
    `embedding` where the two do not share one table.

    `tokens_BT` int64 [B, T]: text of calibration; the first WINDOWS windows are used.
    """
    return _Sensitivity(model, base, shared, tokens_BT[:WINDOWS], report).units()


def _some_rows(weight: Tensor) -> Tensor:
    return weight[:: max(1, len(weight) // SAMPLED_ROWS)].contiguous()


class _Sensitivity:
    def __init__(self, model, base, shared, tokens_BT, report):
        self.model, self.config, self.base = model, model.config, base.plain()
        self.shared, self.tokens, self.report = shared, tokens_BT, report
        self.rope = Rope(self.config, tokens_BT.shape[1], torch.device("cpu"))
        self.gptq = base.method.endswith("gptq")
        self.saved: dict[tuple[int, int], float] = {}

    def units(self) -> list[Unit]:
        model, layers = self.model, self.model.layers
        stream = Stream(F.embedding(self.tokens, model.tok_embeddings.weight), self.config, self.rope)
        inputs = []
        hessians: list[dict[str, Tensor]] = []
        for block in layers:
            inputs.append(stream.x.clone())
            stream.enter(block, float_weights(block))
            hessians.append({})
            for name in LINEARS:
                x = stream.input(name, slice(None)).flatten(0, 1)
                hessians[-1][name] = x.t() @ x / len(x)
                stream.go_on(name)
        hidden = self._hidden(stream.x)
        self.expected = [log_probabilities(logits) for logits in self._logits(hidden)]
        if self.gptq:
            self._sample_gptq(layers[len(layers) // 2], hessians[len(layers) // 2])
        units, start = [], time.monotonic()
        for i, block in enumerate(layers):
            known = float_weights(block)
            for name in LINEARS:
                weight, bias = known[name]
                changed: Known = {**known, name: (self._rounded(weight, *ANCHOR), bias)}
                x = run_block(block, inputs[i], changed, self.config, self.rope)
                kl = self._kl_after(i + 1, x)
                units.append(self._unit(f"layers.{i}.{name}", weight, hessians[i][name], kl))
            left = (time.monotonic() - start) / (i + 1) * (len(layers) - i - 1)
            self.report(f"measuring sensitivity: layer {i + 1} of {len(layers)}, {left:.0f} s left")
        units += self._ends(hidden)
        return units

    def _ends(self, hidden: Tensor) -> list[Unit]:
        """The output layer, and the embedding, together where they share a table."""
        table, output = self.model.tok_embeddings.weight, self.model.output.weight
        h = hidden.t() @ hidden / len(hidden)
        rounded_output = self._rounded(output.detach(), *ANCHOR)
        of_output = self._kl(self._logits(hidden, rounded_output))
        used, place = self.tokens.unique(return_inverse=True)
        rows = F.embedding(place, self._rounded(table[used], *ANCHOR))
        of_table = self._kl_after(0, rows)
        if self.shared:
            return [self._unit("output", output.detach(), h, of_output + of_table)]
        every = torch.eye(self.config.dim)
        return [
            self._unit("output", output.detach(), h, of_output),
            self._unit("embedding", table.detach(), every, of_table, gptq=False),
        ]

    def _unit(self, name: str, weight: Tensor, hessian: Tensor, kl: float, gptq=True) -> Unit:
        sample = _some_rows(weight)

        def error(bits: int, size: int) -> float:
            difference = self._rounded(sample, bits, size) - sample
            return float(((difference @ hessian) * difference).sum())

        anchor = max(error(*ANCHOR), 1e-30)
        choices = []
        for bits, size in FORMATS:
            saved = self.saved.get((bits, size), 1.0) if gptq else 1.0
            choices.append(
                Choice(bits, size, packed_bytes(*weight.shape, bits, size),
                       max(kl, 0.0) * error(bits, size) / anchor * saved)
            )  # fmt: skip
        return Unit(name, tuple(choices))

    def _sample_gptq(self, block, hessians: dict[str, Tensor]) -> None:
        """What of the plain rounding's error GPTQ leaves, by format."""
        known = float_weights(block)
        for bits, size in FORMATS:
            shares = []
            for name in SAMPLED_FOR_GPTQ:
                weight, h = _some_rows(known[name][0]), hessians[name]
                form = weight_format(scheme_of(self.base, bits, size), weight.shape[1])
                found = dequantize(gptq(weight, h, form)) - weight
                plain = self._rounded(weight, bits, size) - weight
                shares.append(float(((found @ h) * found).sum() / ((plain @ h) * plain).sum()))
            self.saved[bits, size] = sum(shares) / len(shares)

    def _rounded(self, weight: Tensor, bits: int, size: int) -> Tensor:
        return dequantize(quantize_linear(weight, scheme_of(self.base, bits, size)))

    def _kl_after(self, first: int, x: Tensor) -> float:
        for block in self.model.layers[first:]:
            x = run_block(block, x, float_weights(block), self.config, self.rope)
        return self._kl(self._logits(self._hidden(x)))

    def _hidden(self, x: Tensor) -> Tensor:
        """What the output layer reads [tokens, D]."""
        h = rms_norm(x, self.model.norm.weight, self.config.norm_eps).flatten(0, 1)
        return h if self.model.head is None else F.linear(h, self.model.head.weight)

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
