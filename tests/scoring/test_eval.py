"""`eval`: windows as llama-perplexity and Hugging Face have them, perplexity, divergence, tasks."""

import json
import math
import re
import types

import numpy as np
import pytest
import torch
from fake_model import FakeModel
from native import export
from tiny import TEXT, make_hf, prompt

from exporter.cli import main as cli
from exporter.cli.command_line import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE
from exporter.cli.verbs import eval as verb
from exporter.scoring import divergence
from exporter.scoring.perplexity import (
    Window,
    disjoint_windows,
    scores,
    sliding_windows,
    target_bytes,
    text_windows,
)
from exporter.util.text_file import read_text

LONG = " ".join(TEXT * 6)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return folder, make_hf(folder, "llama3")


@pytest.fixture
def fake(tiny_model, monkeypatch):
    """The verb's model is a fake one."""
    model = FakeModel(tiny_model[0])
    monkeypatch.setattr(verb, "open_model", lambda options: model)
    return model


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LONG, encoding="utf-8")
    return path


def run(*arguments) -> int:
    return cli.main(["eval", *map(str, arguments)])


def test_disjoint_windows_score_their_second_halves():
    windows = disjoint_windows(range(100, 121), 8, None)
    assert windows == [Window(list(range(100, 108)), 5), Window(list(range(108, 116)), 5)]
    assert [window.targets for window in windows] == [3, 3]  # llama.cpp: n_ctx - n_ctx / 2 - 1


def test_bos_takes_the_first_place_of_each_window():
    windows = disjoint_windows(range(100, 116), 8, 7)
    assert [window.tokens[:2] for window in windows] == [[7, 101], [7, 109]]


@pytest.mark.parametrize(("length", "window", "stride"), [(30, 8, 3), (30, 8, 7), (8, 8, 1)])
def test_sliding_windows_score_every_token_once(length, window, stride):
    windows = sliding_windows(range(length), window, stride)
    targets = [id for one in windows for id in one.tokens[one.first :]]
    assert targets == list(range(1, length))
    assert all(len(one.tokens) <= window for one in windows)
    assert all(one.targets <= stride for one in windows[1:])


def nll_of_hugging_face(model, ids: list[int], window: int, stride: int) -> float:
    """The loop of the guide "Perplexity of fixed-length models", summed token by token."""
    total, count, scored = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : -(end - scored)] = -100
        shifted = labels[0, 1:]
        with torch.no_grad():
            logits = model(inputs).logits[0, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits, shifted, reduction="none")
        total += losses[shifted != -100].sum().item()
        count += int((shifted != -100).sum())
        scored = end
        if end == len(ids):
            break
    return total / count


def test_sliding_perplexity_is_hugging_faces(tiny_model):
    folder, reference = tiny_model
    model = FakeModel(folder)
    ids = model.tokenizer.encode(LONG)
    *_, score = scores(model, text_windows(model.tokenizer, LONG, 24, 10, 128))
    assert score.targets == len(ids) - 1
    assert score.nll == pytest.approx(nll_of_hugging_face(reference, ids, 24, 10), abs=1e-4)
    assert score.bytes == pytest.approx(len(LONG.encode()), abs=8)
    assert score.bits_per_byte == pytest.approx(score.total / math.log(2) / score.bytes)


def test_disjoint_perplexity_and_its_error(tiny_model):
    """As perplexity.cpp computes them, from transformers' logits of each window."""
    folder, reference = tiny_model
    model = FakeModel(folder, add_bos=True)
    ids = model.tokenizer.encode(LONG, add_bos=True)
    losses = []
    for start in range(0, len(ids) // 16 * 16, 16):
        tokens = torch.tensor([[model.tokenizer.bos_id, *ids[start + 1 : start + 16]]])
        with torch.no_grad():
            log_p = reference(tokens).logits[0].double().log_softmax(-1)
        losses += [-log_p[j, tokens[0, j + 1]].item() for j in range(8, 15)]
    *_, score = scores(model, text_windows(model.tokenizer, LONG, 16, None, 128))
    assert score.targets == len(losses)
    assert score.nll == pytest.approx(np.mean(losses), abs=1e-4)
    error = np.std(losses) / math.sqrt(len(losses) - 1)
    assert score.perplexity_error == pytest.approx(math.exp(np.mean(losses)) * error, rel=1e-3)


def test_bytes_of_targets(tiny_model):
    model = FakeModel(tiny_model[0])
    ids = model.tokenizer.encode("The capital of France")
    window = Window(ids, 4)
    assert target_bytes(model.tokenizer, window) == len(model.tokenizer.decode(ids[4:]))


@pytest.mark.parametrize("first", [1, 2, 40, 90, 99])
def test_blocks_are_the_whole_windows_logits(tiny_model, monkeypatch, first):
    monkeypatch.setattr(divergence, "TARGETS_AT_ONCE", 24)
    model = FakeModel(tiny_model[0])
    window = Window(prompt(100)[0].tolist(), first)
    with torch.no_grad():
        whole = tiny_model[1](torch.tensor([window.tokens])).logits[0, first - 1 : -1]
    for source in (divergence.RunnerLogits(model), divergence.DecoderLogits(model.decoder)):
        blocks = list(source.blocks(window))
        assert [len(block) for block in blocks[:-1]] == [24] * (len(blocks) - 1)
        torch.testing.assert_close(torch.cat(blocks), whole, atol=2e-3, rtol=1e-3)


def test_the_verbs_figures(fake, tiny_model, text, capsys, monkeypatch):
    monkeypatch.setattr(divergence, "TARGETS_AT_ONCE", 8)
    assert run("m.pte", "--text", text, "--window", 32, "--reference", tiny_model[0], "--json") == 0
    report = json.loads(capsys.readouterr().out)
    *_, score = scores(fake, text_windows(fake.tokenizer, LONG, 32, None, 128))
    assert report["perplexity"] == pytest.approx(score.perplexity, rel=1e-4)
    assert report["tokens_scored"] == score.targets == report["reference"]["positions"]
    assert abs(report["reference"]["kl_mean"]) < 1e-6  # the same model
    assert report["reference"]["top1_agreement"] == 1.0
    assert report["reference"]["perplexity_ratio"] == pytest.approx(1, abs=1e-4)
    assert report["reference"]["perplexity"] == pytest.approx(score.perplexity, rel=1e-4)


def test_the_verbs_lines(fake, text, capsys):
    assert run("m.pte", "--text", text, "--window", 32, "--windows", 2) == 0
    said = capsys.readouterr()
    assert "perplexity" in said.out and "±" in said.out and "bits per byte" in said.out
    assert "tokens scored    30 in 2 windows" in said.out


def test_the_verbs_lines_beside_a_reference(fake, tiny_model, text, capsys):
    assert run("m.pte", "--text", text, "--window", 32, "--reference", tiny_model[0]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("perplexity") and lines[1].startswith("of the reference")
    assert re.fullmatch(r"of the reference [0-9.]+: [+-]0.0[0-9] ± 0.0[0-9] %", lines[1])
    assert lines[0].split()[1][:6] == lines[1].split()[3][:6]  # the same model


def test_divergence_of_another_vocabulary_is_refused(fake, tiny_model, text, capsys):
    fake.metadata["vocab_size"] = "7"
    status = run("m.pte", "--text", text, "--window", 32, "--reference", tiny_model[0])
    assert status == EXIT_FAILURE and "vocabulary" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        (None, (), "no such file"),
        (b"", (), "is empty"),
        (b" \n", (), "is empty"),
        ("Größe".encode("latin-1"), (), "not UTF-8 (byte 0xf6 at offset 2)"),
        (b"\xef\xbb\xbfab\xff", (), "not UTF-8 (byte 0xff at offset 5)"),
        (LONG.encode("utf-16"), (), "not UTF-8"),
        (b"too short", (), "fewer than one window of 512"),
        (LONG.encode(), ("--window", 1024), "longer than the model's context of 600"),
    ],
)
def test_one_line_for_a_bad_text(fake, tmp_path, content, flags, said, capsys):
    fake.context_length = 600
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    assert run("m.pte", "--text", path, *flags) == EXIT_FAILURE
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1]


def test_a_text_is_read_as_it_is(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(path, "--text") == "one\r\ntwo\n"
    with pytest.raises(IsADirectoryError, match=f"^--text {tmp_path}: is a folder; give a text"):
        read_text(tmp_path, "--text")


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--text", "t", "--window", 2),
        ("--text", "t", "--window", 64, "--stride", 64),
        ("--text", "t", "--limit", 2),
        ("--tasks", "t", "--stride", 2),
    ],
)
def test_flags_that_do_not_go_together(flags, capsys):
    assert run("m.pte", *flags) == EXIT_USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_artifact_takes_no_flags_of_a_model(text, capsys):
    assert run("m.pte", "--text", text, "--quantize", "q4") == EXIT_USAGE
    assert "--quantize is for a MODEL" in capsys.readouterr().err


def test_a_missing_artifact(text, capsys):
    assert run("nothing.pte", "--text", text) == EXIT_FAILURE
    assert "nothing.pte" in capsys.readouterr().err.splitlines()[-1]


def test_an_interrupt_says_what_was_measured(fake, text, capsys, monkeypatch):
    real, calls = fake.score, []

    def interrupted(tokens, first):
        calls.append(first)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(tokens, first)

    monkeypatch.setattr(fake, "score", interrupted)
    assert run("m.pte", "--text", text, "--window", 32) == EXIT_INTERRUPTED
    said = capsys.readouterr()
    assert "interrupted after 3 of" in said.err and "perplexity" in said.err and not said.out


def test_tasks_without_lm_eval(fake, capsys, monkeypatch):
    find = verb.importlib.util.find_spec
    hidden = types.SimpleNamespace(
        find_spec=lambda name: None if name == "lm_eval" else find(name)
    )
    monkeypatch.setattr(verb.importlib, "util", hidden)
    assert run("m.pte", "--tasks", "mine") == EXIT_FAILURE
    assert "pip install lm_eval==" in capsys.readouterr().err.splitlines()[-1]


TASKS = {
    "choice": """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
""",
    "rolling": """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
""",
    "generating": """
task: generating
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{made}}"
generation_kwargs: {until: ["zzz"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


def test_tasks_of_lm_eval(fake, tiny_model, tmp_path, capsys, monkeypatch):
    """Three tasks of our own, against what transformers' logits say."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reference, tokenizer = tiny_model[1], fake.tokenizer

    def greedy(text: str) -> str:
        ids = torch.tensor([tokenizer.encode(text)])
        made = reference.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        return tokenizer.decode(made[0, ids.shape[1] :].tolist())

    def log_p(context: list[int], continuation: list[int]) -> float:
        with torch.no_grad():
            logits = reference(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        places = range(len(context) - 1, len(context) + len(continuation) - 1)
        return sum(logits[j, id].item() for j, id in zip(places, continuation, strict=True))

    documents = []
    for question, choices in (
        ("The capital of France is", ["Paris", "Rome", "near the"]),
        ("Once upon a time there was", ["a little girl", "12345"]),
        ("def add(a, b):", ["return a + b", "forest"]),
    ):
        context = tokenizer.encode(question)
        wholes = [tokenizer.encode(f"{question} {choice}") for choice in choices]
        logs = [log_p(context, whole[len(context) :]) for whole in wholes]
        best = int(np.argmax(logs))
        documents.append(
            {"question": question, "choices": choices, "answer": best, "made": greedy(question)}
        )
    data = tmp_path / "data.json"
    data.write_text("\n".join(map(json.dumps, documents)))
    for name, yaml in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml % data)
    status = run("m.pte", "--tasks", ",".join(TASKS), "--include-path", tmp_path, "--json")
    said = capsys.readouterr()
    assert status == 0, said.err
    tasks = json.loads(said.out.splitlines()[-1])["tasks"]
    assert tasks["choice"]["acc,none"] == 1.0
    assert tasks["generating"]["exact_match,none"] == 1.0
    total = sum(log_p([tokenizer.bos_id], tokenizer.encode(d["question"])) for d in documents)
    words = sum(len(d["question"].split()) for d in documents)
    wanted = math.exp(-total / words)
    assert tasks["rolling"]["word_perplexity,none"] == pytest.approx(wanted, rel=1e-3)
    assert run("m.pte", "--tasks", "nonesuch", "--include-path", tmp_path) == EXIT_FAILURE
    assert "no task 'nonesuch'" in capsys.readouterr().err.splitlines()[-1]


def test_like_contexts_are_run_once(fake):
    pytest.importorskip("lm_eval")
    from exporter.scoring.lm_eval_model import RunnerLM

    model = RunnerLM(fake)
    context = prompt(60)[0].tolist()
    requests = [(("", ""), context, [token, 5]) for token in range(4)]
    model._loglikelihood_tokens(requests, disable_tqdm=True)
    assert fake.forwards < 60 + 4 * 3


@pytest.fixture(scope="module")
def artifact(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "tiny.pte"
    export(tiny_model[0], "--max-seq-length", 128, "--output-pte", path)
    return path


def figures_of(capsys, *arguments) -> dict:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_native_runner_and_eager_agree(artifact, tiny_model, text, capsys):
    """The artifact's scores in native code, its logits, the eager model, and plain PyTorch."""
    flags = ("--text", text, "--window", 64)
    native = figures_of(capsys, artifact, *flags)
    compared = figures_of(capsys, artifact, *flags, "--reference", tiny_model[0])
    eager = figures_of(capsys, tiny_model[0], *flags, "--max-seq-length", 128)
    fake = FakeModel(tiny_model[0])
    *_, score = scores(fake, text_windows(fake.tokenizer, LONG, 64, None, 128))
    for found in (native, compared, eager):
        assert found["nll_per_token"] == pytest.approx(score.nll, abs=1e-4)
        assert found["tokens_scored"] == score.targets
        assert found["bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=1e-3)
    assert compared["reference"]["kl_mean"] < 1e-6
    sliding = figures_of(capsys, artifact, *flags, "--stride", 20)
    assert sliding["tokens_scored"] == len(fake.tokenizer.encode(LONG)) - 1


def test_a_window_longer_than_the_artifacts_context(artifact, text, capsys):
    assert run(artifact, "--text", text, "--window", 129) == EXIT_FAILURE
    assert "context of 128" in capsys.readouterr().err.splitlines()[-1]


def test_bench_of_a_real_artifact(artifact, capsys):
    flags = ("-p", 16, "-n", 4, "-d", "0,32", "-t", 1, "-r", 2, "-o", "json")
    assert cli.main(["bench", *map(str, (artifact, *flags))]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["test"] for row in rows] == ["pp16", "tg4", "pp16 @ d32", "tg4 @ d32"]
    assert all(row["speed"] > 0 and len(row["samples"]) == 2 for row in rows)
    assert rows[3]["bytes_a_token"] > rows[1]["bytes_a_token"] > rows[0]["weights"] * 2
    assert 0 < rows[0]["memory_bytes"] < 200e6 and rows[0]["bandwidth"] > 1e8
