"""One bit a weight, -scale and +scale: kept by models of two levels, said before others lose all; and two
bits for three levels."""

import json

import numpy as np
import pytest
import tiny
import torch
from native import export, logits
from quantized_tiny import verified

from exporter.artifact.reader import read_artifact
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.lowbit.few_levels import few_levels_warning
from exporter.recipe.recipe import parse_recipe
from exporter.verify.weights import unpack

TOKENS = [int(i) for i in tiny.prompt(40, seed=5)[0]]


def recipe(size: int = 32, **options: object) -> str:
    own = {"bitwidth": 1, "groupsize": size, **options}
    table = {name: value for name, value in own.items() if name != "method"}
    return json.dumps({"linear:a8wx": own, "embedding:wx": table})


def make_two_levels(folder, variation: str, size: int):
    """A checkpoint whose matrices have one magnitude a group, a float16 number."""
    model = tiny.make_hf(folder, variation)
    generator = torch.Generator().manual_seed(size)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            groups = -(-weight.shape[1] // size)
            scales = (0.05 + 0.1 * torch.rand(len(weight), groups, generator=generator)).half().float()
            weight.copy_(weight.sign() * scales.repeat_interleave(size, 1)[:, : weight.shape[1]])
            assert weight.all(), name
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("variation", "size", "options"),
    [("smollm2", 32, {}), ("llama3", 64, {"method": "hqq"}), ("mistral", 16, {"method": "gptq"})],
)
def test_a_model_of_two_levels_is_kept(variation, size, options, tmp_path, capsys):
    """Every stored weight is the checkpoint's to the last bit, so that the logits differ by the rounding
    of activations to int8 (1/254 of a group's range a layer) and of the float16 cache."""
    model = make_two_levels(tmp_path / "m", variation, size)
    artifact, text = tmp_path / "one.pte", tmp_path / "text"
    text.write_text(" ".join(tiny.TEXT) * 80)
    calibration = ["--calibrate", text] if options.get("method") == "gptq" else []
    export(tmp_path / "m", "--output-pte", artifact, "--quantize", recipe(size, **options),
           "--max-seq-length", 64, *calibration)  # fmt: skip
    assert "1 bit is for models" not in capsys.readouterr().err
    exact = options.get("method") != "gptq"  # which finds scales for outputs, and the same signs
    stored = read_artifact(artifact)
    for part in (part for tensor in stored.packed() for part in tensor.packed.parts):
        assert (part.bits, part.version) == (1, 4)
        assert part.text() in (f"1 bit, {what}, levels -1 and +1" for what in
                               (f"groups of {size}", "a group a row"))  # fmt: skip
    for tensor in stored.packed():
        if tensor.name.endswith("down"):
            layer = model.model.layers[int(tensor.name.split(".")[1])]
            kept, wanted = unpack(tensor), layer.mlp.down_proj.weight
            assert torch.equal(kept.sign(), wanted.sign())
            if exact:
                assert torch.equal(kept, wanted)
    expected = model(torch.tensor([TOKENS])).logits[0]
    actual = torch.from_numpy(logits(artifact, TOKENS, tmp_path))
    kl = torch.nn.functional.kl_div(
        actual.log_softmax(-1), expected.log_softmax(-1), reduction="batchmean", log_target=True
    )
    assert kl < (0.01 if exact else 0.05)
    status, _, line = verified(capsys, artifact, tmp_path / "m")
    assert status == 0, line


def test_the_same_bits_in_eager_and_in_both_runners(tmp_path):
    make_two_levels(tmp_path / "m", "llama3.2", 32)
    pte, package = tmp_path / "a.pte", tmp_path / "a.pt2"
    export(tmp_path / "m", "--output-pte", pte, "--output-aoti-package", package,
           "--max-seq-length", 64, "--quantize", recipe(32, scale_dtype="int8"))  # fmt: skip
    found = [logits(artifact, TOKENS, tmp_path) for artifact in (pte, package)]
    assert np.array_equal(*found) and np.ptp(found[0]) > 1


@pytest.mark.parametrize(("zeros", "kl"), [(False, "11.3"), (True, "16.4")])
def test_an_ordinary_model_is_warned(zeros, kl, tmp_path, capsys):
    tiny.make_hf(tmp_path / "m", "llama2")
    options = {"has_weight_zeros": True} if zeros else {}
    export(tmp_path / "m", "--output-pte", tmp_path / "a.pte", "--max-seq-length", 64,
           "--quantize", recipe(**options))  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    warning = next(i for i, line in enumerate(lines) if line.startswith("warning: 1 bit is for"))
    assert f"a KL of {kl} nats" in lines[warning]
    assert warning < lines.index("packing the weights ...")


def make_three_levels(folder, size: int):
    """A checkpoint whose layers' matrices are -1, 0 and 1 times a bfloat16 number for `size` columns."""
    model = tiny.make_hf(folder, "llama3")
    generator = torch.Generator().manual_seed(size)
    for name, weight in model.named_parameters():
        if "_proj" in name:
            groups = -(-weight.shape[1] // size)
            scales = (0.05 + 0.1 * torch.rand(len(weight), groups, generator=generator)).bfloat16().float()
            levels = torch.randint(-1, 2, weight.shape, generator=generator)
            weight.copy_(levels * scales.repeat_interleave(size, 1)[:, : weight.shape[1]])
    model.save_pretrained(folder)


TWO_BITS = {"bitwidth": 2, "groupsize": 32}


@pytest.mark.parametrize(
    ("levels", "scheme", "warned"),
    [(None, "ternary", True), (64, "ternary", False), (32, "ternary", True), (32, TWO_BITS, False),
     (16, TWO_BITS, True), (None, TWO_BITS, True), (None, TWO_BITS | {"has_weight_zeros": True}, False),
     (None, TWO_BITS | {"method": "gptq"}, False), (None, TWO_BITS | {"bitwidth": 3}, False),
     (32, TWO_BITS | {"method": "hqq"}, False), (None, TWO_BITS | {"method": "hqq"}, True),
     (None, {"bitwidth": 4, "layers": {"layers.0.down": {"bitwidth": 2}}}, False)],
)  # fmt: skip
def test_two_bits_are_for_three_levels_a_group(levels, scheme, warned, tmp_path):
    """Groups that are longer than the weights' own have more levels. The model is 64 wide, so that a group of
    128 is a row."""
    if levels is None:
        tiny.make_hf(tmp_path, "llama3")
    else:
        make_three_levels(tmp_path, levels)
    model = load_model(open_checkpoint(str(tmp_path)), torch.float32, 64)
    given = scheme if isinstance(scheme, str) else json.dumps({"linear:a8wx": scheme})
    said = few_levels_warning(parse_recipe(given), model)
    if not warned:
        assert said is None
    else:
        group = 64 if scheme == "ternary" else 32
        assert said.startswith("2 bits without zero points") and f"of {group} here" in said
        assert "as groupsize" in said


def test_the_warning_comes_before_the_packing(tmp_path, capsys):
    tiny.make_hf(tmp_path / "m", "llama2")
    export(tmp_path / "m", "--output-pte", tmp_path / "a.pte", "--max-seq-length", 64,
           "--quantize", "ternary")  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    warning = next(i for i, line in enumerate(lines) if line.startswith("warning: 2 bits without zero"))
    assert warning < lines.index("packing the weights ...")


def test_weights_that_are_not_the_checkpoints_are_found(tmp_path, capsys):
    make_two_levels(tmp_path / "m", "smollm2", 32)
    artifact = tmp_path / "one.pte"
    export(tmp_path / "m", "--output-pte", artifact, "--quantize", recipe(), "--max-seq-length", 64)
    data = bytearray(artifact.read_bytes())
    name, header = next((t.name, t.packed.parts[0]) for t in read_artifact(artifact).packed()
                        if t.name.endswith("down"))  # fmt: skip
    stored = bytes(next(t.data for t in read_artifact(artifact).packed() if t.name == name))
    at = data.index(stored)
    for i in range(64):  # some signs of the first rows
        data[at + 64 + header.data_at + i] ^= 0xFF
    artifact.write_bytes(data)
    status, out, _ = verified(capsys, artifact, tmp_path / "m")
    assert status != 0 and name in out
