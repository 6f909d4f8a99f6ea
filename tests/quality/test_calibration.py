"""Calibrated quantization as a whole: better than rounding, resumed without loss, verified."""

import json
import re
import shutil
import struct

import pytest
import tiny
import torch
from native import export, generate
from quantized_tiny import CONTEXT, EXPONENT_AT, loaded, log_probabilities, quantized, verified
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.artifact.reader import read_artifact
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.cli import main as cli
from exporter.lowbit.decoder import LowbitTransformer
from exporter.quality import calibrated, calibration
from exporter.quality.calibrated import apply_method, transform
from exporter.quality.checkpointing import Work
from exporter.recipe.methods import parse_method
from exporter.recipe.recipe import Recipe, parse_recipe
from exporter.tokenizer.tokenizer import read_tokenizer

WINDOWS = 24  # of calibration
ALL_WINDOWS = 96 + 6  # of a text: those that are held out, too


def recipe(method: str, bits: int = 3, **more: object) -> Recipe:
    linear = {"bitwidth": bits, "groupsize": 32, "has_weight_zeros": True, "method": method, **more}
    return parse_recipe(json.dumps({"linear:a8wx": linear, "embedding:wx": {"bitwidth": 8}}))


@pytest.fixture(scope="module")
def text(folder) -> calibration.Calibration:
    """What the model writes; some of it held out."""
    tokenizer = read_tokenizer(open_checkpoint(str(folder)).tokenizer_path)
    return calibration.sampled(loaded(folder), tokenizer, CONTEXT)


def packed_bytes(model: LowbitTransformer) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


class TestSampledText:
    def test_it_is_the_models_own_and_always_the_same(self, folder, text):
        tokenizer = read_tokenizer(open_checkpoint(str(folder)).tokenizer_path)
        again = calibration.sampled(loaded(folder), tokenizer, CONTEXT)
        assert again.digest == text.digest and torch.equal(again.held_out, text.held_out)
        everything = torch.cat((text.tokens, text.held_out))
        assert everything.shape == (calibration.SAMPLED_WINDOWS, CONTEXT)
        assert len(text.held_out) >= 2 and int(everything.max()) < tokenizer.n_pieces
        assert bool((everything[:, 0] == tokenizer.bos_id).all())
        # Drawn from the model's distribution: about as likely as its entropy says.
        logp = log_probabilities(loaded(folder), text.held_out)[:, : tokenizer.n_pieces]
        taken = logp.view(*text.held_out.shape, -1)[:, :-1].gather(2, text.held_out[:, 1:, None])
        entropy = -(logp.exp() * logp).sum(-1).mean()
        assert -taken.mean() == pytest.approx(float(entropy), rel=0.15)

    def test_a_files_windows(self, folder, tmp_path):
        tokenizer = read_tokenizer(open_checkpoint(str(folder)).tokenizer_path)
        path = tmp_path / "t.txt"
        path.write_text("The capital of France is Paris. " * 400, encoding="utf-8")
        ids = tokenizer.encode(path.read_text())
        found = calibration.calibration_of((path,), loaded(folder), tokenizer, CONTEXT)
        count = min(len(ids) // CONTEXT, ALL_WINDOWS)
        assert len(found.tokens) + len(found.held_out) == count
        assert len(found.held_out) >= 1 and found.tokens[0].tolist() == ids[:CONTEXT]
        path.write_text("Once upon a time " * 400, encoding="utf-8")
        other = calibration.calibration_of((path,), loaded(folder), tokenizer, CONTEXT)
        assert other.digest != found.digest

    @pytest.mark.parametrize("sources", [("t.txt",), (None,), ("t.txt", None)])
    def test_as_many_tokens_as_are_asked_for(self, sources, folder, tmp_path):
        tokenizer = read_tokenizer(open_checkpoint(str(folder)).tokenizer_path)
        (tmp_path / "t.txt").write_text("The capital of France is Paris. " * 1000, encoding="utf-8")
        paths = [None if name is None else tmp_path / name for name in sources]
        for tokens, windows, held_out in ((64 * CONTEXT + 5, 64, 4), (3 * CONTEXT, 3, 1), (1, 1, 1)):
            found = calibration.calibration_of(paths, loaded(folder), tokenizer, CONTEXT, tokens)
            assert found.tokens.shape == (windows, CONTEXT)
            assert found.held_out.shape == (held_out, CONTEXT)

    def test_as_much_of_a_file_as_of_its_own(self, folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        tokenizer = read_tokenizer(open_checkpoint(str(folder)).tokenizer_path)
        path = tmp_path / "t.txt"
        path.write_text("The capital of France is Paris. " * 1000, encoding="utf-8")
        found = calibration.calibration_of((path, None), loaded(folder), tokenizer, CONTEXT)
        windows = torch.cat((found.tokens, found.held_out))
        own = windows[:, 0] == tokenizer.bos_id
        assert int(own.sum()) == int((~own).sum()) == ALL_WINDOWS // 2
        assert 0 < int((found.held_out[:, 0] == tokenizer.bos_id).sum()) < len(found.held_out)
        words = [folder, "--output-pte", "m.pte", "--max-seq-length", CONTEXT, "--calibrate", path,
                 "--calibrate", "self", "--quantize", recipe("gptq").to_json()]  # fmt: skip
        for more, count in (([], found.tokens.numel()), (["--calibration-tokens", 6144], 6144)):
            assert cli.main([str(word) for word in (*words, *more)]) == 0
            said = capsys.readouterr().err
            assert f"{count} tokens, in windows of {CONTEXT}" in said
            assert "no --calibrate FILE" not in said


@pytest.mark.parametrize("method", ["gptq", "rotate+gptq", "rotate+awq+gptq"])
def test_compensation_beats_rounding(method, folder, text, tmp_path):
    """Mean KL over held-out positions at 3 bits; measured 0.65 to 0.75 of rounding's."""
    expected = log_probabilities(loaded(folder), text.held_out)

    def kl(word: str) -> float:
        model = quantized(folder, recipe(word), text.tokens[:WINDOWS], Work(tmp_path / word))
        found = log_probabilities(model, text.held_out)
        return float((expected.exp() * (expected - found)).sum(-1).mean())

    rounded = kl("rotate" if "rotate" in method else "rtn")
    assert rounded > 0.05 and kl(method) < 0.9 * rounded


@pytest.mark.parametrize(
    ("around", "inside"), [("gptq", "hqq"), ("hqq", "gptq"), ("rotate+gptq", "rtn")]
)
def test_layers_rounded_by_another_method(around, inside, folder, text, tmp_path):
    """The first layer has the method's numbers, the others their own rounding's."""

    def packed(name: str, wanted: Recipe) -> dict[str, bytes]:
        return packed_bytes(quantized(folder, wanted, text.tokens[:WINDOWS], Work(tmp_path / name)))

    layers = {"layers.1.*": {"method": inside}, "output": {"method": inside}}
    mixed, whole = packed("a", recipe(around, layers=layers)), packed("b", recipe(around))
    own = [f"layers.1.{name}.weight" for name in ("wqkv", "wo", "gate_up", "down")]
    own.append("output.weight")
    for name in own:
        first = name.replace("layers.1", "layers.0")
        assert mixed[name] != whole[name]
        assert first == name or mixed[first] == whole[first]
    if inside != "gptq":
        alone = packed("c", recipe("+".join((*parse_method(around).transforms, inside))))
        assert all(mixed[name] == alone[name] for name in own)


@pytest.mark.parametrize("method", ["awq", "smoothquant"])
def test_scaling_keeps_the_function(method, folder, text, tmp_path):
    model, plain = loaded(folder), loaded(folder)
    work = Work(tmp_path / "w")
    assert apply_method(model, recipe(method).linear, None, text.tokens[:4], work, str) == {}
    expected, found = (log_probabilities(m, text.held_out[:2]) for m in (plain, model))
    assert (found - expected).abs().max() < 1e-3
    for before, after in zip(plain.layers, model.layers, strict=True):
        ratio = after.feed_forward.w2.weight / before.feed_forward.w2.weight
        assert ratio.std(0).max() < 1e-3 and ratio.mean(0).std() > 1e-2  # a factor a column


class Interrupting:
    """Raises KeyboardInterrupt at a layer's line; keeps the lines."""

    def __init__(self, at: int | None = None):
        self.at, self.lines = at, []

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.at is not None and f"layer {self.at} of" in line and "calibrating" in line:
            raise KeyboardInterrupt

    def layers(self) -> int:
        return sum("calibrating: layer" in line for line in self.lines)


class TestResuming:
    @pytest.fixture(scope="class")
    def deep(self, tmp_path_factory):
        """Four layers, so that there is something to go on with."""
        folder = tmp_path_factory.mktemp("deep") / "m"
        tiny.make_hf(folder, "smollm2")
        state = load_file(folder / "model.safetensors")
        for name, tensor in list(state.items()):
            if ".layers." in name:
                layer = int(name.split(".")[2])
                state[name.replace(f".{layer}.", f".{layer + 2}.")] = tensor.flip(0).contiguous()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = tiny.read_json(folder / "config.json") | {"num_hidden_layers": 4}
        tiny.write_json(folder / "config.json", config)
        return folder

    @pytest.mark.parametrize(
        ("method", "layers"),
        [("gptq", {}), ("rotate+awq+gptq", {}), ("smoothquant", {}),
         ("awq+gptq", {"layers.[13].*": {"method": "hqq"}})],
    )  # fmt: skip
    def test_an_interrupted_run_goes_on(self, method, layers, deep, text, tmp_path):
        wanted, tokens = recipe(method, layers=layers), text.tokens[:8]
        whole = Interrupting()
        expected = packed_bytes(quantized(deep, wanted, tokens, Work(tmp_path / "whole"), whole))
        assert whole.layers() == 4
        for at in (1, 3):  # interrupted twice
            with pytest.raises(KeyboardInterrupt):
                quantized(deep, wanted, tokens, Work(tmp_path / "cut"), Interrupting(at))
        rest = Interrupting()
        found = packed_bytes(quantized(deep, wanted, tokens, Work(tmp_path / "cut"), rest))
        assert found == expected
        assert rest.layers() == 1 and rest.lines[0] == "going on at layer 4 of 4"

    @pytest.mark.parametrize("damage", ["layer-0.safetensors", "layer-1.safetensors",
                                        "streams-2.npy", "done"])  # fmt: skip
    @pytest.mark.parametrize("kind", ["cut", "missing", "other"])
    def test_a_damaged_folder_counts_as_empty(self, damage, kind, deep, text, tmp_path):
        wanted, tokens, work = recipe("gptq"), text.tokens[:8], Work(tmp_path / "w")
        with pytest.raises(KeyboardInterrupt):
            quantized(deep, wanted, tokens, work, Interrupting(2))
        path = tmp_path / "w" / damage
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-100] if kind == "cut" else b"\xff{}" * 9)
        assert work.resume(scaled=False) == ({}, 0, None)

    def test_factors_that_are_gone_are_not_done_without(self, deep, text, tmp_path):
        work = Work(tmp_path / "w")
        with pytest.raises(KeyboardInterrupt):
            quantized(deep, recipe("awq+gptq"), text.tokens[:8], work, Interrupting(2))
        (tmp_path / "w" / "factors-0.safetensors").unlink()
        expected = quantized(deep, recipe("awq+gptq"), text.tokens[:8], Work(tmp_path / "other"))
        found = quantized(deep, recipe("awq+gptq"), text.tokens[:8], work)
        assert packed_bytes(found) == packed_bytes(expected)


class TestExports:
    """Through the command line, with the file of text that it takes."""

    @pytest.fixture
    def prose(self, tmp_path):
        path = tmp_path / "prose.txt"
        path.write_text("\n".join(tiny.TEXT * 40), encoding="utf-8")
        return path

    def test_work_is_kept_when_interrupted_and_removed_at_the_end(
        self, folder, prose, tmp_path, monkeypatch, capsys
    ):
        from exporter.quality import calibrated

        monkeypatch.chdir(tmp_path)
        words = [str(word) for word in (
            folder, "--output-pte", "m.pte", "--max-seq-length", CONTEXT, "--calibrate", prose,
            "--calibrate", "self", "--quantize", recipe("gptq").to_json(),
        )]  # fmt: skip
        make, calls = calibrated.gptq, []

        def stopping(*arguments):
            if len(calls) == 6:  # in the second layer
                raise KeyboardInterrupt
            calls.append(arguments)
            return make(*arguments)

        monkeypatch.setattr(calibrated, "gptq", stopping)
        assert cli.main(words) == 130
        work, own_text = sorted(tmp_path.glob(".calibration-*"), key=lambda path: path.is_file())
        assert (work / "done").read_text() == "1" and not (tmp_path / "m.pte").exists()
        calls.clear()
        monkeypatch.setattr(calibrated, "gptq", lambda *a: calls.append(a) or make(*a))
        others = [words[0], "--output-pte", "other.pte", *words[3:-4], *words[-2:]]  # without its own text
        assert cli.main(others) == 0 and work.is_dir() and own_text.is_file()
        calls.clear()
        capsys.readouterr()
        assert cli.main(words) == 0
        said = capsys.readouterr().err
        assert f"own text as {own_text.name} has it" in said and "going on at layer 2 of 2" in said
        assert len(calls) == 4 + 1 and not list(tmp_path.glob(".calibration-*"))
        (tmp_path / "m.pte").rename(tmp_path / "resumed.pte")
        assert cli.main(words) == 0 and not list(tmp_path.glob(".calibration-*"))
        resumed, whole = (read_artifact(tmp_path / f"{n}.pte") for n in ("resumed", "m"))
        assert [bytes(t.data) for t in resumed.weights] == [bytes(t.data) for t in whole.weights]

    def test_a_model_that_is_only_run_leaves_nothing(self, folder, tmp_path, monkeypatch, capfd):
        monkeypatch.chdir(tmp_path)
        words = ["generate", folder, "--quantize", recipe("gptq", 4).to_json(), "--prompt", "Once",
                 "--max-seq-length", CONTEXT, "--max-new-tokens", 3, "--temperature", 0]  # fmt: skip
        assert cli.main([str(word) for word in words]) == 0
        assert capfd.readouterr().out.startswith("Once") and not list(tmp_path.glob(".cal*"))

    def test_a_checkpoint_with_numbers_that_are_none(
        self, folder, prose, tmp_path, monkeypatch, capsys
    ):
        broken = shutil.copytree(folder, tmp_path / "broken")
        state = load_file(broken / "model.safetensors")
        state["model.layers.1.mlp.down_proj.weight"][3, 4] = float("nan")
        save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
        monkeypatch.chdir(tmp_path)
        words = [broken, "--output-pte", tmp_path / "m.pte", "--quantize", recipe("gptq").to_json()]
        for more, said in (([], "logits are not finite"), (["--calibrate", prose], "row 3 has")):
            assert cli.main([str(word) for word in (*words, *more)]) == 1
            line = capsys.readouterr().err.splitlines()[-1]
            assert line.startswith("error: ") and said in line and "use another copy" in line, line


class TestVerify:
    @pytest.mark.parametrize(
        ("method", "layers"),
        [("gptq", {}), ("rotate+gptq", {}), ("awq", {}), ("rotate+awq+gptq", {}),
         ("gptq", {"layers.1.*": {"method": "hqq"}})],
    )  # fmt: skip
    def test_whole_and_broken(self, method, layers, folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        pte = tmp_path / "m.pte"
        export(folder, "--output-pte", pte, "--max-seq-length", CONTEXT,
               "--quantize", recipe(method, 4, layers=layers).to_json())  # fmt: skip
        assert generate(pte, "-t", 0, "-n", 4, "-i", "Once")
        lenient = ("--max-kl", 5, "--min-top1", 0, "--min-cosine", 0)
        status, text, line = verified(capsys, pte, folder, *lenient, "--trace")
        assert status == 0, line
        assert "pass  trace" in text
        moved = method != "gptq"
        assert re.search(rf"(?m)^{'skip' if moved else 'pass'} +packed weights", text)
        artifact = read_artifact(pte)
        for name in ("layers.1.down", "layers.0.wqkv", "output"):
            tensor = artifact.weight(name)
            content = bytearray(pte.read_bytes())
            exponent = tensor.packed.parts[0].scale_exponent + 1
            struct.pack_into("<i", content, tensor.offset + EXPONENT_AT, exponent)
            broken = tmp_path / "broken.pte"
            broken.write_bytes(content)
            status, text, line = verified(capsys, broken, folder, *lenient)
            assert status == 1 and line.startswith("NOT verified: ")
            half = "feed_forward" if name.endswith("down") else "attention"
            part = name if name == "output" else f"{name.rpartition('.')[0]}.{half}"
            assert (f"trace of {part}: " if moved else f"{name}: ") in line, line

    @pytest.mark.parametrize("method", ["rotate+gptq", "gptq"])
    def test_the_output_makes_up_for_the_layers(self, method, tmp_path, monkeypatch):
        """Of a tied model by the matrix before it, of another by itself: its squared error
        tr(W' H W'^T - 2 W' C^T W^T) for the inputs that the quantized layers give falls."""
        tied = method != "gptq"
        tiny.make_hf(tmp_path / "m", "smollm2" if tied else "llama2")
        model, calls = loaded(tmp_path / "m"), []

        def recorded(weight, moments):
            calls.append((weight, moments, corrected(weight, moments)))
            return calls[-1][2]

        corrected = calibrated.corrected
        monkeypatch.setattr(calibrated, "corrected", recorded)
        wanted = parse_recipe(json.dumps({"linear:a8wx": {"bitwidth": 2, "method": method}}))
        transform(model, wanted.linear, str)
        tokens = torch.randint(model.config.vocab_size, (12, 64), generator=torch.manual_seed(3))
        apply_method(model, wanted.linear, None, tokens, Work(tmp_path / "work"), str)
        before, moments, after = calls[-1]
        assert len(calls) == 4 * len(model.layers) + 1
        if tied:
            assert torch.equal(after, model.head.weight)
        else:
            assert model.head is None and after.shape == model.output.weight.shape

        def error(weight: Tensor) -> float:
            cross = (weight @ moments.cross.T) * before
            return float(((weight @ moments.hessian) * weight).sum() - 2 * cross.sum())

        assert error(after) < error(before)

    def test_one_table_of_an_untied_copy(self, folder, tmp_path, monkeypatch, capsys):
        """`retie`: embedding, and the output through a small matrix, against two tables."""
        from scripts import rotate_checkpoint
        from scripts.bench.command_line import exit_status

        monkeypatch.chdir(tmp_path)
        words = [str(folder), str(tmp_path / "copy")]
        assert exit_status(rotate_checkpoint.main, words) == 0
        for name, method in (("a", "retie+gptq"), ("b", "gptq")):
            export(tmp_path / "copy", "--output-pte", f"{name}.pte", "--max-seq-length", CONTEXT,
                   "--quantize", json.dumps({
                       "linear:a8wx": {"bitwidth": 4, "method": method},
                       "embedding:wx": {"bitwidth": 4},
                   }))  # fmt: skip
        one, two = (read_artifact(tmp_path / f"{name}.pte") for name in "ab")
        assert one.weight("table") is one.weight("output")
        assert one.weight("head").packed.kind == "float16"
        assert two.weight("table") is not two.weight("output")
        status, _, line = verified(capsys, tmp_path / "a.pte", tmp_path / "copy",
                                   "--max-kl", 5, "--min-top1", 0, "--min-cosine", 0)  # fmt: skip
        assert status == 0, line
