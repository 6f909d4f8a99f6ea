"""`verify` finds what was broken on purpose, and names it; what is whole passes."""

import json
import re
import shutil
import struct
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from native import export, stats

from exporter.artifact.aoti_reader import canonical
from exporter.artifact.contents import stored
from exporter.artifact.memory import StateChoice, estimate
from exporter.artifact.reader import read_artifact
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.cli import main as cli
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.recipe.recipe import parse_recipe
from exporter.verify.limits import MEASURED, limits_for
from exporter.verify.trace import trace, trace_checks
from exporter.verify.verify import VerifyRequest, effective_bits, verify
from exporter.verify.weights import transformed

CONTEXT = 96
EXPONENT_AT = 28  # of the packed header
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def make(folder, variation="smollm2"):
    tiny.make_hf(folder, variation)
    tiny.write_json(folder / "tokenizer_config.json", {
        "bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE,
    })  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    pte = tmp_path_factory.mktemp("artifact") / "m.pte"
    export(folder, "--output-pte", pte, "--quantize", "q8", "--max-seq-length", CONTEXT)
    return pte


def run(capsys, artifact, folder, *arguments: object) -> tuple[int, str, str]:
    """Exit status, all that was printed, and its last line."""
    capsys.readouterr()
    words = ["verify", artifact, "--checkpoint", folder, *arguments]
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    lines = (captured.out or captured.err).splitlines()
    return status, captured.out, lines[-1]


def patched(artifact, folder, *changes: tuple[int, bytes]):
    """A copy with bytes replaced."""
    content = bytearray(artifact.read_bytes())
    for place, part in changes:
        content[place : place + len(part)] = part
    path = folder / f"broken{artifact.suffix}"
    path.write_bytes(content)
    return path


def replaced(artifact, folder, old: bytes, new: bytes):
    """A copy in which the one place of `old` is `new`."""
    content = artifact.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    return patched(artifact, folder, (content.index(old), new))


def broken_names(line: str) -> list[str]:
    assert line.startswith("NOT verified: ")
    return [part.split(": ")[0] for part in line.removeprefix("NOT verified: ").split("; ")]


def test_a_whole_artifact_is_verified(whole, folder, capsys):
    status, text, line = run(capsys, whole, folder)
    assert status == 0 and line.startswith("verified: m.pte: mean KL ")
    verdicts = {row.split()[0] for row in text.splitlines()[:-1]}
    assert verdicts == {"pass", "info"}
    for name in ("tokenizer table", "chat prompts", "stop tokens", "packed weights", "mean KL"):
        assert f"pass  {name}" in text


@pytest.mark.parametrize("name", ["layers.1.down", "layers.0.wqkv", "output"])
def test_doubled_scales_are_named(whole, folder, tmp_path, capsys, name):
    tensor = read_artifact(whole).weight(name)
    exponent = struct.pack("<i", tensor.packed.parts[0].scale_exponent + 1)
    broken = patched(whole, tmp_path, (tensor.offset + EXPONENT_AT, exponent))
    status, text, line = run(capsys, broken, folder)
    assert status == 1 and f"{name}: 2.00 times the checkpoint's" in line
    weights = [n for n in broken_names(line) if re.match(r"layers|output|norm", n)]
    assert weights == [name]
    if name.startswith("layers."):  # the mean KL failed, so it was traced
        half = "feed_forward" if name.endswith("down") else "attention"
        assert f"trace of {name.rpartition('.')[0]}.{half}" in broken_names(line)


def test_doubled_scales_of_one_panel_in_a_package(folder, tmp_path, capsys):
    package = tmp_path / "m.pt2"
    export(folder, "--output-aoti-package", package, "--quantize", "q4",
           "--max-seq-length", CONTEXT)  # fmt: skip
    assert run(capsys, package, folder, "--max-kl", 5, "--min-top1", 0, "--min-cosine", 0)[0] == 0
    tensor = read_artifact(package).weight("layers.1.gate_up")
    (header,) = tensor.packed.parts
    start = tensor.offset + 64 + 3 * header.panel_bytes + header.scales_at
    count = header.groups * 16
    scales = np.frombuffer(package.read_bytes(), np.float16, count, start) * np.float16(2)
    broken = patched(package, tmp_path, (start, scales.tobytes()))
    status, _, line = run(capsys, broken, folder)
    assert status == 1 and "layers.1.gate_up: " in line
    assert "error" in line or "rows 48 to 63" in line


def test_doubled_steps_of_int8_scales_are_named(folder, tmp_path, capsys):
    artifact = tmp_path / "m.pte"
    form = {"bitwidth": 4, "scale_dtype": "int8"}
    export(folder, "--output-pte", artifact, "--max-seq-length", CONTEXT,
           "--quantize", json.dumps({"linear:a8wx": form, "embedding:wx": form}))  # fmt: skip
    assert run(capsys, artifact, folder, "--max-kl", 5, "--min-top1", 0, "--min-cosine", 0)[0] == 0
    tensor = read_artifact(artifact).weight("layers.1.gate_up")
    start = tensor.offset + 64 + 3 * tensor.packed.parts[0].panel_bytes
    steps = np.frombuffer(artifact.read_bytes(), np.float16, 16, start) * np.float16(2)
    broken = patched(artifact, tmp_path, (start, steps.tobytes()))
    status, _, line = run(capsys, broken, folder)
    assert status == 1 and "layers.1.gate_up: " in line
    assert "error" in line or "rows 48 to 63" in line


def test_a_wrong_stop_token_is_named(whole, folder, tmp_path, capsys):
    broken = replaced(whole, tmp_path, b"[1]", b"[7]")
    status, _, line = run(capsys, broken, folder)
    assert status == 1 and broken_names(line) == ["stop tokens"]
    assert '"1 </s>"' in line and '"7 ' in line


def test_a_wrong_template_is_named(whole, folder, tmp_path, capsys):
    old = b'"<s>assistant'
    broken = replaced(whole, tmp_path, old, old.replace(b"assistant", b"assistent"))
    status, _, line = run(capsys, broken, folder)
    assert status == 1 and broken_names(line) == ["chat template", "chat prompts"]
    assert "tree is" in line


def test_a_damaged_recipe_is_named(whole, folder, tmp_path, capsys):
    broken = replaced(whole, tmp_path, b'{"embedding:wx"', b'["embedding:wx"')
    line = failing(capsys, broken, "--checkpoint", folder)
    assert f"{broken} is damaged: its metadata 'quantization' is no recipe" in line
    assert line.endswith("; export it again")


def test_another_tokenizer_is_named(folder, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / "other")
    tokenizer = tiny.read_json(other / "tokenizer.json")
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[1:] + merges[:1]  # the most frequent pair comes last
    tiny.write_json(other / "tokenizer.json", tokenizer)
    pte = tmp_path / "m.pte"
    export(folder, "--output-pte", pte, "--quantize", "q8", "--max-seq-length", CONTEXT,
           "--tokenizer", other / "tokenizer.json")  # fmt: skip
    status, _, line = run(capsys, pte, folder)
    assert status == 1
    assert broken_names(line)[:2] == ["tokenizer table", "tokenizer encoding"]
    assert "layers" not in line and "mean KL" not in line


def test_a_damaged_norm_is_named(whole, folder, tmp_path, capsys):
    at = read_artifact(whole).weight("layers.1.ffn_norm").offset
    broken = patched(whole, tmp_path, (at, struct.pack("<4f", *[3.0] * 4)))
    status, _, line = run(capsys, broken, folder)
    assert status == 1 and "layers.1.ffn_norm" in broken_names(line)


def test_numbers_that_are_none_are_found(whole, folder, tmp_path, capsys):
    at = read_artifact(whole).weight("norm").offset
    broken = patched(whole, tmp_path, (at, struct.pack("<f", float("nan"))))
    status, _, line = run(capsys, broken, folder)
    assert status == 1 and "norm" in broken_names(line)
    assert "finite logits" in broken_names(line)


def test_another_checkpoint_is_found(whole, tmp_path, capsys):
    other = make(tmp_path / "other", "llama3.2")
    status, _, line = run(capsys, whole, other)
    assert status == 1
    if line.startswith("NOT"):
        assert broken_names(line)[:2] == ["checkpoint digest", "model shape"]
    else:
        assert "give the checkpoint it was exported from" in line


def test_thresholds_can_be_given(whole, folder, capsys):
    status, _, line = run(capsys, whole, folder, "--max-kl", 0, "--positions", 60)
    assert status == 1 and broken_names(line)[0] == "mean KL" and "at most 0" in line


def test_every_kernel_of_a_float_model(folder, tmp_path, capsys):
    for delegate in ("lowbit", "stock"):
        pte = tmp_path / f"{delegate}.pte"
        export(folder, "--output-pte", pte, "--max-seq-length", CONTEXT, "--delegate", delegate)
        status, text, line = run(capsys, pte, folder, "--threads", 1)
        assert status == 0, line
        assert ("1 skipped" in line) == (delegate == "stock")
    with_trace = run(capsys, tmp_path / "lowbit.pte", folder, "--trace")[1]
    assert "pass  trace" in with_trace
    assert "cannot be traced" in run(capsys, tmp_path / "stock.pte", folder, "--trace")[2]


def test_reports_hold_the_same_and_escape_it(whole, folder, tmp_path, capsys):
    text = tmp_path / "prompts.txt"
    text.write_text("<script>alert('1 & 2')</script> | `x` Größe 你好\n" * 4, encoding="utf-8")
    paths = [tmp_path / f"r.{kind}" for kind in ("md", "json", "html")]
    flags = [word for path in paths for word in ("--report", path)]
    status, out, _ = run(capsys, whole, folder, "--prompts", text, "--trace", "--json", *flags)
    assert status == 0
    said = json.loads(paths[1].read_text())
    assert {k: v for k, v in json.loads(out).items()} == said
    assert said["verified"] and said["line"].startswith("verified: ")
    assert len(said["positions"]) > 60 and len(said["trace"]) == 2 * 2 + 2
    assert said["kl"]["mean"] == pytest.approx(np.mean([p["kl"] for p in said["positions"]]))
    assert said["kl"]["max"] < 1 and len(said["weights"]) == 2 * 4 + 1
    markdown = paths[0].read_text()
    assert "| mean KL | pass |" in markdown and "<script>" not in markdown
    page = paths[2].read_text()
    assert "<script" not in page and "http" not in page
    body = page[page.index("<svg") : page.index("</svg>") + 6]
    dots = ElementTree.fromstring(body).findall("circle")
    assert len(dots) == len(said["positions"])
    assert page.count("<svg") == 3 and "rgba(214, 69, 36, " in page


def failing(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["verify", *map(str, arguments)]) in (1, 2)
    return capsys.readouterr().err.splitlines()[-1]


def test_bad_input_is_one_line(whole, folder, tmp_path, capsys):
    assert "--checkpoint PATH" in failing(capsys, whole)
    assert "does not exist" in failing(capsys, tmp_path / "no.pte", "--checkpoint", folder)
    none = failing(capsys, whole, "--checkpoint", tmp_path / "none")
    assert str(tmp_path / "none") in none
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text(" \n")
    latin.write_bytes("Größe".encode("latin-1"))
    for path, words in (
        (empty, "is empty; give"),
        (latin, "not UTF-8 (byte 0xf6 at offset 2); convert"),
        (tmp_path, "is a folder; give"),
        (tmp_path / "no", "no such file; give"),
    ):
        line = failing(capsys, whole, "--checkpoint", folder, "--prompts", path)
        assert f"--prompts {path}: {words}" in line
    assert "must end in" in failing(capsys, whole, "--report", tmp_path / "r.pdf")
    assert "no such folder" in failing(capsys, whole, "--report", tmp_path / "none" / "r.md")
    for value in (2, -1, "x", "nan"):
        line = failing(capsys, whole, "--min-top1", value)
        assert f"'{value}' is not a number from 0 to 1" in line
    assert "'inf' is not a number of at least 0" in failing(capsys, whole, "--max-kl", "inf")
    cut = tmp_path / "cut.pte"
    cut.write_bytes(whole.read_bytes()[:5000])
    assert str(cut) in failing(capsys, cut, "--checkpoint", folder)


def test_a_prompt_longer_than_the_context_is_read_in_windows(whole, folder, tmp_path):
    text = tmp_path / "long.txt"
    text.write_text("one two three " * 200, encoding="utf-8")
    result = verify(VerifyRequest(whole, str(folder), prompts=text, positions=250))
    assert [len(p.ids) for p in result.readings.prompts] == [CONTEXT, CONTEXT, 250 - 2 * CONTEXT]
    assert len(result.readings.positions.kl) == 250 and result.good


def rotated(whole, folder):
    """The artifact with the weights of the same model in another basis, as a rotation has them."""
    model = load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0]
    table = model.tok_embeddings.weight
    model.output.weight = torch.nn.Parameter(table * model.norm.weight @ turn, False)
    model.tok_embeddings.weight = torch.nn.Parameter(table @ turn, False)
    norms = [model.norm]
    for block in model.layers:
        attention, ffn = block.attention, block.feed_forward
        norms += [block.attention_norm, block.ffn_norm]
        for norm, layers in ((norms[-2], (attention.wq, attention.wk, attention.wv)),
                             (norms[-1], (ffn.w1, ffn.w3))):  # fmt: skip
            for layer in layers:
                layer.weight = torch.nn.Parameter(layer.weight * norm.weight @ turn, False)
        for layer in (attention.wo, ffn.w2):
            layer.weight = torch.nn.Parameter(turn.T @ layer.weight, False)
    for norm in norms:
        norm.weight = torch.nn.Parameter(torch.ones(64), False)
    options = PackOptions(parse_recipe("q8"), torch.float32)
    packed = LowbitTransformer(model, options, "float16", lambda line: None)
    weights = []
    for name, value in packed.state_dict().items():
        data = memoryview(value.contiguous().view(torch.uint8).numpy().tobytes())
        dtype = str(value.dtype).removeprefix("torch.")
        weights.append(stored((canonical(name),), dtype, tuple(value.shape), data, 0))
    artifact = read_artifact(whole)
    said = {**artifact.metadata, "quantization": '{"linear:a8wx": {"method": "rotate+rtn"}}'}
    return replace(artifact, weights=tuple(weights), metadata=said)


def test_a_rotated_model_is_traced_in_its_own_basis(whole, folder):
    model = load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)
    artifact = rotated(whole, folder)
    assert transformed(artifact) == "rotate" and transformed(read_artifact(whole)) is None
    tokens = list(range(5, 69))
    parts = trace(artifact, model, tokens, lambda line: None)
    assert all(part.error < 0.05 and abs(part.gain - 1) < 0.02 for part in parts)
    (check,) = trace_checks(parts)
    assert check.verdict == "pass" and check.measured == "6 of 6 parts"

    down = artifact.weight("layers.0.down")
    data = bytearray(down.data)
    struct.pack_into("<i", data, EXPONENT_AT, down.packed.parts[0].scale_exponent + 1)
    broken = replace(down, data=memoryview(bytes(data)))
    weights = tuple(broken if t is down else t for t in artifact.weights)
    parts = trace(replace(artifact, weights=weights), model, tokens, lambda line: None)
    assert [c.name for c in trace_checks(parts) if c.failed] == ["trace of layers.0.feed_forward"]


def test_limits_grow_as_bits_fall(whole):
    known = [limits_for(bits) for bits in (2, 2.5, 3, 4, 4.5, 5, 6, 8, 16, 32)]
    for worse, better in zip(known, known[1:], strict=False):
        assert worse.mean_kl >= better.mean_kl and better.mean_kl < 5.1
        assert worse.top1 <= better.top1 and worse.cosine <= better.cosine
    assert limits_for(1) == limits_for(min(MEASURED))
    assert effective_bits(read_artifact(whole)) == 8


def test_smollm2_itself(artifacts, capsys):
    """The real model, unquantized: verified against the alias that its metadata name."""
    capsys.readouterr()
    assert cli.main(["verify", str(artifacts[0]), "--positions", "128"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("verified: a.pte: mean KL ") and "top-1 agreement 100.0 %" in line
    measured = stats(artifacts[0], "-t", 0, "-n", 4, "--tokens", ",".join(["504"] * 600))
    expected = estimate(read_artifact(artifacts[0]), StateChoice(604)).total
    assert measured["peak_rss_bytes"] == pytest.approx(expected, rel=0.05)
