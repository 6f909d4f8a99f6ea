"""What every family is held to: a test file of a family subclasses `FamilyTests` with its `Case`.

Two families, of the most different layers, are held to `ThoroughFamilyTests`: every scheme, method and cache.
What these do is done by code that knows no family.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import family
import numpy as np
import pytest
import session_fuzz
import tiny
import torch
from native import export, generate, logits
from quantized_tiny import verified

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.cli import main as cli
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.model.config import ModelConfig
from exporter.recipe.recipe import parse_recipe

MAX_ERROR = 1e-4  # relative, of float32 logits
# Of weights rounded to 8 bits: 2^-9 each, some hundred of them on the way to a logit, twice the largest seen.
COARSE = {"bf16": 0.1, "q8": 0.1}
CONTEXT, LENGTH = 96, 60
TOKENS = tiny.prompt(LENGTH)[0].tolist()
CHUNKS = ((), ("--prefill-chunk", 7), ("--prefill-chunk", 1))
# Longer than fifty windows of CONTEXT tokens, which a fit holds some of out.
TEXT = "".join(f"The {i}th of {i % 7} hares ran {i * i % 97} times around the old stone wall. "
               for i in range(150))  # fmt: skip


class FamilyTests:
    case: family.Case
    # What a feature's absence makes of the config: each must be far from transformers.
    without: dict[str, Callable[[ModelConfig], ModelConfig]]
    rotates: bool | str = True  # or words of the refusal
    calibrates = True  # or methods and fits are refused, since layers have experts
    variants: dict[str, dict[str, object]] = {}  # other fields of the config, for the float model

    def coarse(self, actual: np.ndarray, expected: np.ndarray) -> float:
        """The error of rounded weights."""
        return far(actual, expected)

    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        """Of transformers, its folder, and its GGUF file beside it."""
        folder = tmp_path_factory.mktemp("model")
        made = family.make_hf(folder / "hf", self.case)
        family.write_gguf(folder / "m.gguf", made, self.case)
        return made, folder

    @pytest.fixture(scope="class")
    def expected(self, model) -> np.ndarray:
        with torch.no_grad():
            return model[0](torch.tensor([TOKENS])).logits[0].float().numpy()

    @pytest.fixture(scope="class")
    def artifacts(self, model, tmp_path_factory):
        """Float32, of both backends."""
        folder = tmp_path_factory.mktemp("artifacts")
        pte, package = folder / "m.pte", folder / "m.pt2"
        export(model[1] / "hf", "--max-seq-length", CONTEXT, "--output-pte", pte,
               "--output-aoti-package", package)  # fmt: skip
        return pte, package

    @pytest.mark.parametrize("source", ["hf", "m.gguf"])
    def test_the_float_model_is_transformers(self, source, model, expected):
        checkpoint = open_checkpoint(str(model[1] / source))
        decoder = load_model(checkpoint, torch.float32, CONTEXT)
        for chunk in (LENGTH, 7):
            assert far(run(decoder, chunk), expected) < MAX_ERROR

    def test_variants(self, tmp_path):
        for name, change in self.variants.items():
            made = family.make_hf(tmp_path / name, self.case, **change)
            family.write_gguf(tmp_path / f"{name}.gguf", made, self.case)
            with torch.no_grad():
                expected = made(torch.tensor([TOKENS])).logits[0].float().numpy()
            for source in (tmp_path / name, tmp_path / f"{name}.gguf"):
                decoder = load_model(open_checkpoint(str(source)), torch.float32, CONTEXT)
                assert far(run(decoder, LENGTH), expected) < MAX_ERROR, (name, source.suffix)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_both_sources_hold_the_same_weights(self, dtype, model):
        """So that what is tested of a folder's artifacts is true of a GGUF file's."""
        hf, gguf = (open_checkpoint(str(model[1] / name)) for name in ("hf", "m.gguf"))
        weights, same = hf.state_dict(dtype), gguf.state_dict(dtype)
        assert weights.keys() == same.keys()
        assert all(torch.equal(weights[name], same[name]) for name in weights)

    def test_every_feature_matters(self, model, expected):
        checkpoint = open_checkpoint(str(model[1] / "hf"))
        assert self.without
        for name, change in self.without.items():
            other = replace(checkpoint, config=change(checkpoint.config))
            decoder = load_model(other, torch.float32, CONTEXT)
            assert far(run(decoder, LENGTH), expected) > 10 * MAX_ERROR, name

    def test_older_config(self, model):
        if self.case.older is None:
            pytest.skip("one spelling only")
        folder = model[1] / "hf"
        config, now = open_checkpoint(str(folder)).config, tiny.read_json(folder / "config.json")
        tiny.write_json(folder / "config.json", self.case.older(now))
        try:
            assert open_checkpoint(str(folder)).config == config
        finally:
            tiny.write_json(folder / "config.json", now)

    def test_the_runners_are_transformers(self, artifacts, expected, tmp_path):
        for artifact in artifacts:
            for chunk in CHUNKS:
                assert far(logits(artifact, TOKENS, tmp_path, *chunk), expected) < MAX_ERROR, chunk

    def test_a_gguf_file_gives_the_same_artifact(self, model, artifacts, tmp_path):
        export(model[1] / "m.gguf", "--max-seq-length", CONTEXT, "--output-pte", tmp_path / "m.pte")
        found, same = (logits(path, TOKENS, tmp_path) for path in (tmp_path / "m.pte", artifacts[0]))
        assert far(found, same) < 1e-6

    def test_packed_weights(self, model, expected, tmp_path):
        artifacts = self.check_packed("q4", model, expected, tmp_path)
        texts = [generate(path, "--tokens", "5,6,7", "-n", 8, "-t", 0) for path in artifacts]
        assert texts[0] == texts[1]

    def check_packed(self, scheme, model, expected, tmp_path):
        """Both runners have the bits of eager, in one chunk and in several; with many bits these are near
        transformers' logits."""
        words = ["--dtype", "bf16"] if scheme == "bf16" else ["--quantize", scheme]
        pte, package = tmp_path / "m.pte", tmp_path / "m.pt2"
        outputs = ["--output-pte", pte, "--output-aoti-package", package]
        export(model[1] / "hf", *words, "--max-seq-length", CONTEXT, *outputs)
        eager = run_packed(open_checkpoint(str(model[1] / "hf")), scheme)
        if scheme in COARSE:
            assert self.coarse(eager, expected) < COARSE[scheme]
        for artifact in (pte, package):
            for chunk in CHUNKS:
                found = logits(artifact, TOKENS, tmp_path, *chunk)
                assert np.array_equal(found, eager), (artifact.name, chunk)
        return pte, package

    def test_verify_finds_nothing_and_traces_every_part(self, model, artifacts, capsys):
        for artifact in artifacts:
            status, out, error = verified(capsys, artifact, model[1] / "hf", "--trace", "--json")
            assert status == 0, out or error
            said, layers = json.loads(out), model[0].config.num_hidden_layers
            assert len(said["trace"]) == 2 * layers + 2
            assert len(said["greedy"]["tokens"]) == 32 and said["greedy"]["first_difference"] is None

    def test_inspect_and_eval(self, model, artifacts, tmp_path, capsys):
        (tmp_path / "text.txt").write_text(TEXT)
        assert cli.main(["inspect", str(artifacts[0])]) == 0
        assert "layers.0-" in capsys.readouterr().out
        scores = []
        for what in (artifacts[0], artifacts[1], model[1] / "hf"):
            length = ["--max-seq-length", str(CONTEXT)] if what == model[1] / "hf" else []
            words = ["eval", str(what), *length, "--text", str(tmp_path / "text.txt"),
                     "--window", str(CONTEXT), "--json"]  # fmt: skip
            assert cli.main(words) == 0
            scores.append(json.loads(capsys.readouterr().out)["perplexity"])
        assert max(scores) - min(scores) < MAX_ERROR * min(scores)


class ThoroughFamilyTests(FamilyTests):
    @pytest.mark.parametrize("scheme", ["bf16", "q8", "q6", "q5", "q3", "q2"])
    def test_other_schemes(self, scheme, model, expected, tmp_path):
        self.check_packed(scheme, model, expected, tmp_path)

    def test_sessions(self, model, tmp_path):
        """Forked, rewound, saved and in forwards with others, each says what it would alone."""
        pte, package = tmp_path / "m.pte", tmp_path / "m.pt2"
        export(model[1] / "hf", "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-pte", pte,
               "--output-aoti-package", package)  # fmt: skip
        for artifact in (pte, package):
            for cache_type in session_fuzz.CACHE_TYPES:
                assert "60 sequences" in session_fuzz.fuzz(artifact, 60, cache_type=cache_type)

    @pytest.mark.parametrize("method", ["gptq", "awq", "rotate+gptq"])
    def test_methods(self, method, model, tmp_path, capsys):
        """What is calibrated is verified, part by part, against the checkpoint."""
        (tmp_path / "text.txt").write_text(TEXT)
        recipe = {"linear:a8wx": {"bitwidth": 6, "groupsize": 32, "method": method}}
        words = [model[1] / "hf", "--max-seq-length", CONTEXT, "--output-pte", tmp_path / "m.pte",
                 "--quantize", json.dumps(recipe), "--calibrate", tmp_path / "text.txt"]  # fmt: skip
        if not self.calibrates:
            assert cli.main([str(word) for word in words]) == 1
            assert "has experts" in capsys.readouterr().err.splitlines()[-1]
            return
        if "rotate" in method and self.rotates is not True:
            assert cli.main([str(word) for word in words]) == 1
            error = capsys.readouterr().err.splitlines()[-1]
            assert '"rotate"' in error and self.rotates in error and "leave" in error
            return
        export(*words)
        status, out, _ = verified(capsys, tmp_path / "m.pte", model[1] / "hf", "--trace")
        assert status == 0, out

    def test_a_fit(self, model, tmp_path, capsys):
        (tmp_path / "text.txt").write_text(TEXT * 4)
        words = [model[1] / "hf", "--max-seq-length", CONTEXT, "--output-pte", tmp_path / "m.pte",
                 "--quantize", "q4", "--fit", "9.0bpw", "--calibrate", tmp_path / "text.txt"]  # fmt: skip
        if not self.calibrates:
            assert cli.main([str(word) for word in words]) == 1
            assert "--fit 9.0bpw" in capsys.readouterr().err.splitlines()[-1]
            return
        export(*words)
        status, out, _ = verified(capsys, tmp_path / "m.pte", model[1] / "hf")
        assert status == 0, out


def far(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest error, of the largest logit."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def run_packed(checkpoint, scheme: str) -> np.ndarray:
    recipe = parse_recipe("{}" if scheme == "bf16" else scheme)
    dtype = torch.bfloat16 if scheme == "bf16" else torch.float32
    options = PackOptions(recipe, dtype)
    model = load_model(checkpoint, torch.float32, CONTEXT)
    return run(LowbitTransformer(model, options, "float16", lambda line: None), LENGTH)


def run(decoder, chunk: int) -> np.ndarray:
    """Logits [LENGTH, V] of TOKENS, taken `chunk` at a time."""
    session, found = decoder.new_session(), []
    with torch.no_grad():
        for start in range(0, LENGTH, chunk):
            tokens = torch.tensor([TOKENS[start : start + chunk]])
            rows = torch.arange(tokens.shape[1])
            found.append(session.read(tokens, start, rows))
    return torch.cat(found).numpy()
