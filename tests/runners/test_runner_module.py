"""The runners' core in Python gives what the programs give, and lives with PyTorch in one process."""

import base64
import itertools
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from native import ROOT, export, generate, logits

from exporter.artifact import runner_interface
from exporter.cli import main as cli
from exporter.cli import model_options
from exporter.cli.command_line import Parser
from exporter.pipeline import prepare
from exporter.runners import eager
from exporter.runners import native as _runner
from exporter.tokenizer.tokenizer import read_tokenizer

CONTEXT = 8192
TOKENS = [int(token) for token in tiny.prompt(40)[0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("module")
    tiny.make_hf(folder / "model", "llama3.1")
    export(
        folder / "model", "--max-seq-length", CONTEXT, "--output-pte", folder / "a.pte",
        "--output-aoti-package", folder / "a.pt2", "--output-dso", folder / "a.so",
    )  # fmt: skip
    return folder


@pytest.fixture(params=["pte", "pt2", "so"])
def artifact(request, folder) -> Path:
    return folder / f"a.{request.param}"


def prepared(folder: Path, *flags: str) -> prepare.Prepared:
    parser = Parser()
    model_options.add_model_options(parser)
    options = parser.parse_args(["--max-seq-length", str(CONTEXT), *flags])
    return prepare.prepare(model_options.model_request(str(folder / "model"), options), ())


def log_probabilities(model, tokens: list[int]) -> np.ndarray:
    """Of tokens[i] given those before, by double precision over all logits; for i from 1."""
    rows = model.forward(tokens, 0, list(range(len(tokens) - 1))).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows[np.arange(len(tokens) - 1), tokens[1:]]


@pytest.mark.parametrize("backend", _runner.MODULES)
@pytest.mark.parametrize(
    ("interface", "built"),
    [("RunnerModel", "Model"), ("RunnerTokenizer", "Tokenizer"), ("Generated", "Generated"),
     ("RunnerSampler", "Sampler")],
)  # fmt: skip
def test_the_interface_names_what_the_modules_have(backend, interface, built):
    module = _runner._library(backend)
    assert _public(getattr(module, built)) == _public(getattr(runner_interface, interface))
    assert _public(runner_interface.RunnerModule) <= _public(module)


def _public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_metadata_and_tokenizer(folder, artifact):
    model = _runner.load_artifact(artifact, metadata_only=True)
    assert model.backend == ("executorch" if artifact.suffix == ".pte" else "aoti")
    assert model.metadata["context_length"] == str(CONTEXT)
    assert model.metadata["max_rows"] == model.metadata["max_chunk"] == "256"
    assert "tokenizer" not in model.metadata
    if artifact.suffix == ".so":
        written = json.loads(Path(f"{artifact}.json").read_text())
        table = base64.b64decode(written.pop("tokenizer"))
        assert model.metadata == written and model.tokenizer.table == table
    tokenizer, reference = model.tokenizer, read_tokenizer(folder / "model" / "tokenizer.json")
    assert tokenizer.table == reference.table
    assert (tokenizer.n_pieces, tokenizer.eos_id) == (reference.n_pieces, reference.eos_id)
    ids = tokenizer.encode("Größe</s>")
    assert ids[-1] == tokenizer.eos_id and tokenizer.decode(ids) == "Größe"
    assert tokenizer.encode("Größe</s>", parse_special=False)[-1] != tokenizer.eos_id
    assert tokenizer.encode("a", add_bos=True) == [tokenizer.bos_id, *tokenizer.encode("a")]
    with pytest.raises(ValueError, match="metadata_only"):
        model.forward([1], 0, [0])


def test_logits_and_text_are_the_programs(artifact, tmp_path):
    model = _runner.load_artifact(artifact, threads=2)
    expected = logits(artifact, TOKENS, tmp_path)
    assert np.array_equal(model.forward(TOKENS, 0, list(range(len(TOKENS)))), expected)
    # In two chunks, and again from the middle: positions may be rewound.
    for middle in (25, 10):
        assert np.array_equal(model.forward(TOKENS[middle:], middle, [3]), expected[[middle + 3]])
    ids = model.tokenizer.encode("Once upon")
    told = []
    result = model.generate(ids, 20, temperature=0.9, top_p=0.9, seed=3, on_text=told.append)
    text = generate(artifact, "-i", "Once upon", "-n", 20, "-t", 0.9, "-p", 0.9, "-s", 3)
    assert text == f"Once upon{result.text}\n" and "".join(told) == result.text
    assert (result.reason, len(result.ids), result.prompt_tokens) == ("steps", 20, len(ids))
    greedy = model.generate(ids, 5, temperature=0, stop_ids=[])
    stopped = model.generate(ids, 5, temperature=0, stop_ids=[greedy.ids[2]])
    first = greedy.ids.index(greedy.ids[2])
    assert stopped.reason == "stop_token" and stopped.ids == greedy.ids[:first]


def test_sampling_flags_are_the_modules_settings(artifact):
    model = _runner.load_artifact(artifact, threads=2)
    ids = model.tokenizer.encode("Once upon")

    def program(*flags: object) -> str:
        return generate(artifact, "-i", "Once upon", "-n", 20, "-t", 0.9, "-s", 3, *flags)

    plain, differ = model.generate(ids, 20, temperature=0.9, seed=3), 0
    for settings in (
        {"repetition_penalty": 2.5, "typical_p": 0.5}, {"frequency_penalty": 2, "top_k": 5},
        {"presence_penalty": -2, "min_p": 0.2}, {"no_repeat_ngram_size": 1},
    ):  # fmt: skip
        pairs = [(f"--{name.replace('_', '-')}", value) for name, value in settings.items()]
        found = model.generate(ids, 20, temperature=0.9, seed=3, **settings)
        assert program(*itertools.chain(*pairs)) == f"Once upon{found.text}\n"
        differ += found.ids != plain.ids
    assert differ == 4
    banned = {token: -math.inf for token in plain.ids[:3]}
    found = model.generate(ids, 20, temperature=0.9, seed=3, logit_bias=banned)
    assert not banned.keys() & set(found.ids)
    assert program("--logit-bias", ",".join(f"{token}=-inf" for token in banned)) == (
        f"Once upon{found.text}\n"
    )
    stop = plain.text[5:8]
    found = model.generate(ids, 20, temperature=0.9, seed=3, stop_strings=[stop, "nowhere"])
    assert (found.reason, found.text) == ("stop_string", plain.text[: plain.text.index(stop)])
    assert program("--stop", "nowhere", "--stop", stop) == f"Once upon{found.text}\n"


def test_scores(artifact):
    model = _runner.load_artifact(artifact)
    tokens = (TOKENS * 20)[:700]  # three chunks
    expected = log_probabilities(model, TOKENS)
    assert np.abs(model.score(TOKENS, 1) - expected).max() < 2e-5
    told = []
    scores = model.score(tokens, 1, progress=lambda done, of: told.append((done, of)))
    assert told == [(0, 700), (256, 700), (512, 700)]
    assert scores.dtype == np.float32 and len(scores) == 699
    for first in (2, 255, 256, 257, 300, 699):
        assert np.array_equal(model.score(tokens, first), scores[first - 1 :])
    one = _runner.load_artifact(artifact, threads=1)
    assert (one.threads, len(one.score(tokens, 1))) == (1, 699)
    assert np.array_equal(one.score(tokens, 1), scores)
    assert np.array_equal(model.score(tokens, 1), scores)  # with its own threads again


def test_errors_are_one_line(folder, artifact, tmp_path):
    model = _runner.load_artifact(artifact)
    vocabulary = int(model.metadata["vocab_size"])
    for call, words in (
        (lambda: model.forward([1], 5, [0]), "start_pos is 5"),
        (lambda: model.forward([1] * 257, 0, [0]), "1 to 256 tokens, not 257"),
        (lambda: model.forward([vocabulary], 0, [0]), f"token id {vocabulary}"),
        (lambda: model.forward([1, 2], 0, [2]), "no row 2"),
        (lambda: model.forward([1], 0, []), "rows, not 0"),
        (lambda: model.score([1, 2], 0), "from token 0"),
        (lambda: model.score([1] * (CONTEXT + 1), 1), f"holds {CONTEXT}"),
        (lambda: model.generate([1] * (CONTEXT + 1)), f"holds {CONTEXT}"),
        (lambda: model.generate([]), "no tokens"),
        (lambda: model.generate([1], temperature=0, steps=-1), "steps is -1"),
        (lambda: model.generate([1], top_k=1.5), "top_k is 1.5; give a whole number from 0"),
        (lambda: model.generate([1], logit_bias={vocabulary: 1.0}), f"token id {vocabulary}"),
        (lambda: model.time_decode(10, CONTEXT), "depth"),
        (lambda: model.chat_prompt([("user", "x")]), "chat"),
        (lambda: model.tokenizer.decode([10**6]), "1000000"),
        (lambda: _runner.load_artifact(artifact, threads=-2), "threads is -2"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            call()
        assert "\n" not in str(raised.value)
    for settings in ({"topk": 3}, {"top_k": "many"}, {"logit_bias": [1]}, {"stop_strings": 5}):
        with pytest.raises(TypeError, match=next(iter(settings))):
            model.generate([1], 1, **settings)
    cut = tmp_path / artifact.name
    cut.write_bytes(artifact.read_bytes()[:2000])
    with pytest.raises(ValueError, match=str(cut)):
        _runner.load_artifact(cut)
    with pytest.raises(FileNotFoundError, match="no such file"):
        _runner.load_artifact(tmp_path / "nosuch.pte")
    with pytest.raises(ValueError, match="no artifact"):
        _runner.load_artifact(folder / "model" / "config.json")


def test_without_the_libraries(artifact, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNNER_MODULES", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="scripts/build_native.sh"):
        _runner.load_artifact(artifact)


def test_times_and_memory(artifact):
    model = _runner.load_artifact(artifact)
    assert 0 < model.time_prefill(300, 10) and 0 < model.time_decode(3, 300)
    assert 1e6 < _runner.peak_rss_bytes() < 1e11


def test_an_interrupt_ends_native_work(folder):
    """Within one call: nothing of Python runs until it is over."""
    model = _runner.load_artifact(folder / "a.pte")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            for seconds in itertools.repeat(model.time_decode, 20):
                seconds(CONTEXT)
                pytest.fail("the call was over before the interrupt")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(model.score(TOKENS, 1)) == len(TOKENS) - 1


ONE_PROCESS = """
import sys
from exporter.runners.native import load_artifact
def torch_too():
    from exporter.lowbit import ops
    ops.load()
    import torch
    x, weight = torch.ones(1, 32), torch.ops.lowbit.pack_float(torch.eye(32), torch.float32)
    assert torch.equal(torch.ops.lowbit.linear_fp(x, weight, None, 32), x)
tokens, models, scores = list(range(1, 30)), [], []
for step in sys.argv[1:]:
    if step == "torch":
        torch_too()
    else:
        models.append(load_artifact(step, threads=len(models) + 1))
    scores += [model.score(tokens, 1).tolist() for model in models]
torch_too()
assert len(scores) > 2 and all(score == scores[0] for score in scores)
"""


@pytest.mark.parametrize("order", [("torch", "a.pt2", "a.pte"), ("a.pt2", "a.so", "torch", "a.pte")])
def test_one_process_holds_both_and_torch(folder, order):
    """PyTorch has functions of the names that a compiled model calls: before or after, it gets ours."""
    steps = [step if step == "torch" else str(folder / step) for step in order]
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, *steps], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_eager_model_gives_the_same_bits(folder):
    ours = eager.eager_model(prepared(folder))
    native = _runner.load_artifact(folder / "a.pte")
    assert ours.backend == "python" and ours.tokenizer.table == native.tokenizer.table
    assert np.array_equal(ours.score(TOKENS, 1), native.score(TOKENS, 1))
    options = {"temperature": 0.7, "seed": 5}
    assert ours.generate(TOKENS, 12, **options).ids == native.generate(TOKENS, 12, **options).ids


# The stock decoder's kernels take a C++ compiler half a minute for a prompt alone.
@pytest.mark.parametrize(("delegate", "prefill"), [("lowbit", True), ("stock", False)])
def test_compiled_models(folder, delegate, prefill):
    parts = prepared(folder, "--delegate", delegate, "--max-seq-length", "64")
    plain = eager.eager_model(parts)
    compiled = eager.eager_model(parts, compile=True, compile_prefill=prefill)
    for length in (40, 17):
        expected = plain.score(TOKENS[:length], 9)
        assert np.abs(compiled.score(TOKENS[:length], 9) - expected).max() < 1e-4
    tokens, options = TOKENS[:1], {"steps": 30, "temperature": 0, "stop_ids": []}
    assert compiled.generate(tokens, **options).ids == plain.generate(tokens, **options).ids


def test_a_python_model(folder):
    metadata = prepared(folder).metadata.to_strings()
    metadata["chat"] = json.dumps(
        {"tree": [["name", "m"], ["name", "messages"], ["const", "<s>"], ["attr", "content", 0],
                  ["const", "</s>"], ["out", 2, 3, 4], ["seq", 5], ["for", 0, 1, -1, 6, -1],
                  ["out", 2], ["seq", 7, 8]],
         "inputs": ["messages"], "thoughts": []}
    )  # fmt: skip
    vocabulary = int(metadata["vocab_size"])

    def forward(tokens, start_pos, rows):
        seen.append((tokens.tolist(), start_pos, rows.tolist()))
        result = np.zeros((len(rows), vocabulary), np.float32)
        result[:, 7] = 5
        return result

    seen = []
    model = _runner.make_python_model(metadata, forward)
    assert model.generate([1, 2, 3], 2, temperature=0).ids == [7, 7]
    assert seen == [([1, 2, 3], 0, [2]), ([7], 3, [0])]
    assert np.allclose(model.score([1, 2, 3], 2), -np.log(vocabulary - 1 + np.exp(5.0)))
    bos, eos = model.tokenizer.bos_id, model.tokenizer.eos_id
    plain = model.tokenizer.encode("</s>", parse_special=False)
    assert model.chat_prompt([("user", "</s>")]) == [0, *plain, 1, 0] and (bos, eos) == (0, 1)
    with pytest.raises(ValueError, match="float32"):
        _runner.make_python_model(metadata, lambda *_: np.zeros((1, 2))).forward([1], 0, [0])
    with pytest.raises(ZeroDivisionError):
        _runner.make_python_model(metadata, lambda *_: 1 // 0).score([1, 2], 1)
    del metadata["vocab_size"]
    with pytest.raises(ValueError, match="vocab_size"):
        _runner.make_python_model(metadata, forward)


class TestGenerate:
    def run(self, capsys, *arguments: object) -> tuple[int, str, str]:
        status = cli.main(["generate", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    def test_an_artifact(self, folder, capsys):
        status, text, said = self.run(
            capsys, folder / "a.pte", "--prompt", "Once", "--max-new-tokens", 9, "--seed", 4,
            "--num-samples", 2, "--stats",
        )  # fmt: skip
        runs = [generate(folder / "a.pte", "-i", "Once", "-n", 9, "-s", seed) for seed in (4, 5)]
        assert (status, text) == (0, "".join(runs))
        assert "sample 2 of 2" in said and "generated 9 at" in said and "peak memory" in said

    def test_sampling_flags(self, folder, capsys):
        flags = ["--temperature", 0, "--repetition-penalty", 1.8, "--logit-bias", "300=-inf,40=2"]
        wanted = generate(folder / "a.pte", "-i", "Once", "-n", 9, *flags)
        found = self.run(capsys, folder / "a.pte", "--prompt", "Once", "--max-new-tokens", 9, *flags)
        assert found[:2] == (0, wanted)
        stop = wanted[8:10]
        status, text, said = self.run(
            capsys, folder / "a.pte", "--prompt", "Once", "--max-new-tokens", 9, *flags,
            "--stop", stop, "--stats",
        )  # fmt: skip
        assert (status, text) == (0, wanted[: wanted.index(stop, 5)] + "\n")
        assert "ended by stop_string" in said

    def test_a_model(self, folder, capsys):
        status, text, _ = self.run(
            capsys, folder / "model", "--prompt", "Once", "--max-new-tokens", 9, "--temperature", 0
        )
        expected = generate(folder / "a.pte", "-i", "Once", "-n", 9, "-t", 0)
        assert (status, text) == (0, expected)

    @pytest.mark.parametrize(
        ("status", "words", "flags"),
        [
            (2, "--quantize", ["{a}", "--quantize", "q4"]),
            (2, "--compile", ["{a}", "--compile"]),
            (2, "--compile", ["{model}", "--compile-prefill"]),
            (2, "--chat", ["{a}", "--system", "x"]),
            (2, "--chat", ["{a}", "--think", "off"]),
            (2, "--chat", ["{a}", "--tools", "tools.json"]),
            (2, "--chat", ["{a}", "--date", "2024-07-26"]),
            (2, "not a day", ["{a}", "--chat", "--date", "20240726"]),
            (2, "not a day", ["{a}", "--chat", "--date", "2024-02-30"]),
            (1, "no such file", ["{a}", "--chat", "--tools", "nosuch.json"]),
            (2, "--temperature", ["{a}", "--temperature", "-1"]),
            (2, "above 0 and at most 1", ["{a}", "--typical-p", "0"]),
            (2, "5=-1.5", ["{a}", "--logit-bias", "5=much"]),
            (1, "token id 999999", ["{a}", "--logit-bias", "999999=1"]),
            (1, "no such file", ["nosuch.pte"]),
            (1, "nosuchmodel", ["nosuchmodel"]),
            (1, "chat", ["{a}", "--chat"]),
            (1, f"holds {CONTEXT}", ["{a}", "--prompt", "word " * CONTEXT]),
        ],
    )
    def test_one_line_says_what_is_wrong(self, folder, capsys, status, words, flags):
        names = {"a": folder / "a.pte", "model": folder / "model"}
        flags = [flag.format(**names) for flag in flags]
        prompt = [] if "--prompt" in flags else ["--prompt", "x"]
        found, text, said = self.run(capsys, *flags, *prompt)
        assert (found, text) == (status, "")
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and words in lines[0]
