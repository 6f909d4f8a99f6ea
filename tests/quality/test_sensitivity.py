"""What a fit reckons with: the KL of single matrices by gradients, and tables of several widths."""

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from quantized_tiny import CONTEXT, loaded

from exporter.formats.packed_header import HEADER_BYTES, MOST_PARTS
from exporter.lowbit.ops import load
from exporter.lowbit.pack import pack_integers
from exporter.lowbit.weights import dequantize, quantize_linear
from exporter.quality.calibrated import transform
from exporter.quality.calibration import Calibration
from exporter.quality.choices import (
    ANCHOR,
    FORMATS,
    alike,
    packed_bytes,
    read_units,
    scheme_of,
    table_unit,
    write_units,
)
from exporter.quality.fit import fit
from exporter.quality.layerwise import (
    add_second_moment,
    mirrored,
    run_block,
    sum_over_parts,
)
from exporter.quality.sensitivity import WHOLE_MODEL_FACTOR, sensitivities, windows_needed
from exporter.quality.windows import RotaryTables, float_weights, last_hidden
from exporter.recipe.methods import PLAIN
from exporter.recipe.schemes import LinearScheme
from exporter.scoring.divergence import divergence, log_probabilities

ROUNDED = 2.0**-8  # a bfloat16 product's elements, where the CPU has them
BASE = LinearScheme("linear:a8wx", 64, 4, method="gptq")
SHAPE = {"rtn": {form: 4.0 ** (4 - form[0]) * (1 if form[1] == 64 else 0.9) for form in FORMATS}}


@pytest.mark.parametrize(
    ("values", "most", "starts"),
    [([9, 9, 1, 1], 2, [0, 2]), ([9, 1, 1, 1, 8], 3, [0, 1, 4]), ([100, 10, 1], 2, [0, 1]),
     ([100, 20, 1], 2, [0, 2]), ([1, 2], 8, [0, 1]), ([0, 0, 5], 2, [0, 2]), ([0.0], 8, [0])],
)  # fmt: skip
def test_ranges_of_a_sequence(values, most, starts):
    ranges = alike(values, most)
    assert [r.start for r in ranges] == starts
    assert [r.stop for r in ranges] == [*starts[1:], len(values)]


# Falling, as of byte-level BPE; and with a last block of fewer rows that counts, as of SentencePiece.
@pytest.mark.parametrize("kls", [(8.0, 3.0, 1.0, 0.5, 0.1), (8.0, 1.0, 0.9, 0.8, 4.0)])
def test_a_tables_choices_are_tables_that_can_be_packed(kls):
    load()
    blocks = [slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 128), slice(128, 136)]
    unit = table_unit("output", blocks, 512, [{"rtn": kl} for kl in kls], SHAPE)
    weight = torch.randn(136, 512, generator=torch.manual_seed(0))
    for choice in unit.choices:
        scheme = scheme_of(BASE, choice)
        assert pack_integers(quantize_linear(weight, scheme)).nbytes == choice.bytes
        assert len(choice.from_row) < MOST_PARTS
        starts = {0: choice.bits, **dict(choice.from_row)}
        widths = [starts[max(s for s in starts if s <= block.start)] for block in blocks]
        factors = [SHAPE["rtn"][width, choice.group_size] for width in widths]
        assert choice.kl == pytest.approx(sum(kl * f for kl, f in zip(kls, factors, strict=True)))
    assert {choice.bits for choice in unit.choices} == {2, 3, 4, 5, 6, 7, 8}
    room = packed_bytes(136, 512, 4, 64) + 4 * HEADER_BYTES  # of a stack and three parts more
    best = fit([unit], room, None).chosen["output"]
    assert best.bytes <= room and best.kl < 0.8 * sum(kls)
    widths = [best.bits, *(bits for _, bits in best.from_row)]
    rises = widths[-1] > widths[-2]
    assert rises == (kls[-1] > 1) and widths[0] > min(widths)


def test_units_are_written_and_read(tmp_path):
    unit = table_unit("output", [slice(0, 32), slice(32, 40)], 64, [{"rtn": 2.0}, {"rtn": 1.0}], SHAPE)
    write_units(tmp_path / "u.json", [unit])
    assert read_units(tmp_path / "u.json") == [unit]
    (tmp_path / "u.json").write_text('{"output": [[4, 32]]}')
    assert read_units(tmp_path / "u.json") is None


@pytest.mark.parametrize("columns", [1, 3, 5, 64, 66])
def test_second_moments_are_whole(columns):
    """Of parts of windows, the last one shorter; and with a row more, as of what is seen of them."""
    x = torch.randn(67, 4, columns, generator=torch.manual_seed(0), dtype=torch.float64).float()

    def add(part: torch.Tensor, total: torch.Tensor) -> None:
        add_second_moment(part, total[:columns])
        total[columns] += part.sum(0)

    total = sum_over_parts(lambda at: x[at].flatten(0, 1), add, (columns + 1, columns), 67)
    rows = x.flatten(0, 1)
    torch.testing.assert_close(mirrored(total[:columns]), rows.T @ rows, rtol=ROUNDED, atol=ROUNDED * 268)
    torch.testing.assert_close(total[columns], rows.sum(0), rtol=1e-4, atol=1e-3)


def test_a_layer_of_zeros_loses_nothing(tmp_path):
    tiny.make_hf(tmp_path / "m", "smollm2")
    model = loaded(tmp_path / "m")
    model.layers.then(lambda block, i: block.attention.wo.weight.zero_())
    tokens = torch.randint(tiny.VOCAB, (windows_needed(), 16), generator=torch.manual_seed(2))
    units = {u.name: u for u in sensitivities(model, BASE, True, Calibration(tokens, tokens[:1]),
                                              lambda line: None)}  # fmt: skip
    assert {choice.kl for choice in units["layers.0.wo"].choices} == {0}
    assert all(choice.kl > 0 for choice in units["layers.0.gate_up"].choices)


def kl_of(model, tokens, changed: dict[str, torch.Tensor]) -> float:
    """Mean KL over `tokens` of the model with other matrices than its own, by name."""
    logits = []
    for other in ({}, changed):
        x = F.embedding(tokens, other.get("embedding", model.tok_embeddings.weight))
        positions = RotaryTables(model.config, tokens.shape[1])
        for i, block in enumerate(model.layers):
            known = {name: (other.get(f"layers.{i}.{name}", weight), bias)
                     for name, (weight, bias) in float_weights(block).items()}  # fmt: skip
            x = run_block(block, x, known, positions)
        output = other.get("output", model.output.weight)
        logits.append(F.linear(last_hidden(model, x).flatten(0, 1), output))
    return float(divergence(log_probabilities(logits[0]), logits[1]).kl.mean())


@pytest.mark.parametrize(
    ("variation", "method"),
    [("smollm2", "gptq"), ("llama2", "gptq"), ("mistral_window", "hqq"), ("smollm2", "rotate+hqq")],
)
def test_gradients_predict_the_kl_of_single_matrices(variation, method, tmp_path):
    tiny.make_hf(tmp_path / "m", variation)
    model = loaded(tmp_path / "m")
    base = replace(BASE, method=method)
    transform(model, base, lambda line: None)
    generator = torch.manual_seed(2)
    tokens = torch.randint(tiny.VOCAB, (windows_needed(), CONTEXT), generator=generator)
    calibration = Calibration(tokens, tokens[:1])
    shared = model.output.weight is model.tok_embeddings.weight
    units = {u.name: u for u in sensitivities(model, base, shared, calibration, lambda line: None)}
    names = [f"layers.{i}.{name}" for i, block in enumerate(model.layers) for name in block.matrices]
    assert list(units) == [*names, "output"] + ([] if shared else ["embedding"])

    weights = {f"layers.{i}.{name}": weight for i, block in enumerate(model.layers)
               for name, (weight, _) in float_weights(block).items()}  # fmt: skip
    weights |= {"output": model.output.weight, "embedding": model.tok_embeddings.weight}
    for name, unit in units.items():
        for rounding in PLAIN:
            choice = next(
                c for c in unit.choices
                if (c.bits, c.group_size, c.rounding) == (*ANCHOR, rounding) and not c.from_row
            )  # fmt: skip
            changed = dequantize(quantize_linear(weights[name], scheme_of(BASE, choice)))
            both = {"embedding": changed} if shared and name == "output" else {}
            with torch.no_grad():
                measured = kl_of(model, tokens[::3], {name: changed} | both)
            # A label a position: thousands of squares of a normal variable are certain to a few
            # hundredths. The rest is that positions and logits are taken as independent.
            assert 3 / 4 < choice.kl / WHOLE_MODEL_FACTOR[rounding] / measured < 4 / 3, (name, rounding)
