"""`bitwidth_from_row`: a matrix whose rows have several numbers of bits, from the recipe to the runner."""

import json
import re
import struct

import pytest
import tiny
import torch
from native import export, generate
from quantized_tiny import CONTEXT, EXPONENT_AT, loaded, log_probabilities, quantized, verified

from exporter.artifact.reader import read_artifact
from exporter.cli import main as cli
from exporter.formats.packed_header import read_matrix
from exporter.lowbit.weights import WeightFormat, dequantize
from exporter.quality.checkpointing import Work
from exporter.quality.gptq import gptq
from exporter.recipe.recipe import parse_recipe


def test_a_stack_is_kept_with_finished_layers(tmp_path):
    form = WeightFormat(6, 32, "none", "int8", ((16, 5), (48, 3)))
    weight = torch.randn(70, 64, generator=torch.manual_seed(5))
    made = gptq(weight, torch.eye(64), form)
    streams = (torch.zeros(1, 2, 64), torch.ones(1, 2, 64))
    Work(tmp_path / "w").keep(0, {"layers.0.gate_up": made}, streams)
    found, done, _ = Work(tmp_path / "w").resume(scaled=False)
    again = found["layers.0.gate_up"]
    assert done == 1 and again.format == form
    assert torch.equal(dequantize(again), dequantize(made))


@pytest.mark.parametrize("method", ["rtn", "hqq", "awq+gptq", "rotate+gptq"])
def test_rows_of_several_bits_by_each_method(method, folder, tmp_path):
    by_row = {"bitwidth": 6, "bitwidth_from_row": {"32": 5, "96": 3}}
    layers = {"output": by_row, "layers.1.gate_up": by_row}
    linear = {"bitwidth": 5, "method": method, "layers": layers}
    table = {**by_row, "method": "hqq"} if method == "hqq" else by_row
    wanted = parse_recipe(json.dumps({"linear:a8wx": linear, "embedding:wx": table}))
    tokens = torch.randint(tiny.VOCAB, (26, 64), generator=torch.manual_seed(4))
    model = quantized(folder, wanted, tokens[2:], Work(tmp_path / "w"))
    assert model.table is model.output.weight
    for packed in (model.table, model.layers[1].gate_up.weight):
        parts = read_matrix(packed.numpy().tobytes(), "w").parts
        assert [(part.first_row, part.bits) for part in parts] == [(0, 6), (32, 5), (96, 3)]
    expected = log_probabilities(loaded(folder), tokens[:2])
    actual = log_probabilities(model, tokens[:2])
    kl = float((expected.exp() * (expected - actual)).sum(-1).mean())
    assert kl < 1  # rows in the wrong places give several nats


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_shared_table_of_several_bits(method, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = {"bitwidth": 6, "scale_dtype": "int8", "bitwidth_from_row": {"32": 5, "160": 4}}
    form = {"bitwidth": 5, "method": method, "layers": {"output": table}}
    words = ["--max-seq-length", CONTEXT,
             "--quantize", json.dumps({"linear:a8wx": form, "embedding:wx": table})]  # fmt: skip
    lenient = ("--max-kl", 5, "--min-top1", 0, "--min-cosine", 0)
    texts = []
    for kind, name in (("--output-pte", "m.pte"), ("--output-aoti-package", "m.pt2")):
        export(folder, kind, name, *words)
        artifact = read_artifact(tmp_path / name)
        assert artifact.weight("table") is artifact.weight("output")
        assert [(p.first_row, p.bits) for p in artifact.weight("table").packed.parts] == [
            (0, 6), (32, 5), (160, 4),
        ]  # fmt: skip
        assert artifact.metadata["kernel_layout_version"] == "3"
        status, text, line = verified(capsys, tmp_path / name, folder, *lenient, "--trace")
        assert status == 0 and "pass  packed weights" in text, line
        texts.append(generate(tmp_path / name, "-t", 0, "-n", 8, "-i", "Once"))
    assert texts[0] == texts[1]
    pte = tmp_path / "m.pte"
    part = read_artifact(pte).weight("table").packed.parts[1]
    content = bytearray(pte.read_bytes())
    at = read_artifact(pte).weight("table").offset + part.at + EXPONENT_AT
    struct.pack_into("<i", content, at, part.scale_exponent + 1)
    (tmp_path / "b.pte").write_bytes(content)
    status, _, line = verified(capsys, tmp_path / "b.pte", folder, *lenient)
    assert status == 1
    gain = re.search(r"output \(rows 32 to 159\): (\S+) times the checkpoint's", line)
    assert float(gain[1]) == pytest.approx(2, abs=0.1)  # GPTQ's own is near 1


def test_rows_that_a_table_does_not_have(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    form = {"bitwidth": 6, "bitwidth_from_row": {"320": 4}}
    for parts, name in (
        ({"embedding:wx": form}, "the embedding"),
        ({"linear:a8wx": {"layers": {"output": form}}}, "output"),
        ({"linear:a8wx": {"layers": {"layers.1.gate_up": form}}}, "layers.1.gate_up"),
    ):
        words = [str(folder), "--output-pte", "m.pte", "--quantize", json.dumps(parts)]
        assert cli.main(words) == 1
        line = capfd.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and f"{name} has " in line and "row 320 is" in line
