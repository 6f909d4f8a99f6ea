"""Sessions of the runners, in Python and in the programs: chosen at the start, several at once, saved."""

import re
import subprocess
import sys

import numpy as np
import pytest
import session_fuzz
import tiny
from native import AOTI_RUN, ET_RUN, ROOT, export, logits, run, runner_of

from exporter.runners.native import load_artifact

CONTEXT, VOCAB = 64, tiny.VOCAB
TOKENS = tiny.prompt(50)[0].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`q4` for both backends, and a stock one."""
    folder = tmp_path_factory.mktemp("sessions")
    tiny.make_hf(folder / "m", "llama3.1")
    export(folder / "m", "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-pte", folder / "m.pte",
           "--output-aoti-package", folder / "m.pt2")  # fmt: skip
    export(folder / "m", "--delegate", "stock", "--max-seq-length", CONTEXT,
           "--output-pte", folder / "stock.pte")  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=["m.pte", "m.pt2"])
def artifact(request, folder):
    return folder / request.param


def alone(artifact, tokens) -> np.ndarray:
    return load_artifact(artifact).forward(tokens, 0, list(range(len(tokens))))


def test_sessions_in_one_forward(artifact):
    model = load_artifact(artifact, sessions=3)
    a, b = model.open_session(), model.open_session()
    first, second = model.forward_together([(a, TOKENS[:20]), (b, TOKENS[30:33])])
    assert first.shape == (20, VOCAB) and second.shape == (3, VOCAB)
    assert np.array_equal(first, alone(artifact, TOKENS[:20]))
    assert np.array_equal(second, alone(artifact, TOKENS[30:33]))
    assert np.array_equal(model.forward_together([(b, [3, 4])], last_only=True)[0],
                          alone(artifact, [*TOKENS[30:33], 3, 4])[-1:])  # fmt: skip
    c = a.fork()
    later, other = model.forward_together([(c, TOKENS[20:40]), (a, [7])])
    assert np.array_equal(later, alone(artifact, TOKENS[:40])[20:])
    assert np.array_equal(other, alone(artifact, [*TOKENS[:20], 7])[20:])
    assert (a.position, b.position, c.position) == (21, 5, 40) and c.tokens == TOKENS[:40]
    c.rewind(5)
    (again,) = model.forward_together([(c, TOKENS[5:9])])
    assert np.array_equal(again, alone(artifact, TOKENS[:9])[5:])


def test_saved_sessions_go_on_in_the_other_runner(folder):
    for name, other in (("m.pte", "m.pt2"), ("m.pt2", "m.pte")):
        model = load_artifact(folder / name)
        session = model.open_session()
        model.forward_together([(session, TOKENS[:37])])
        saved = session.save()
        elsewhere = load_artifact(folder / other, context_length=200)
        restored = elsewhere.restore_session(saved)
        assert restored.tokens == TOKENS[:37]
        (found,) = elsewhere.forward_together([(restored, TOKENS[37:])])
        assert np.array_equal(found, alone(folder / name, TOKENS)[37:])
        for wrong in (saved[:-1], saved[:100], b"", saved[:50] + b"?" + saved[51:], b"x" * 5000):
            with pytest.raises(ValueError, match="session"):
                load_artifact(folder / other).restore_session(wrong)
        with pytest.raises(ValueError, match="a float16 cache, and this one is of int8"):
            load_artifact(folder / other, cache_dtype="int8").restore_session(saved)


def test_what_sessions_refuse(artifact, folder):
    model = load_artifact(artifact, sessions=2)
    a = model.open_session()
    model.forward(TOKENS[:3], 0, [2])  # the model's own
    with pytest.raises(ValueError, match="all 2 sessions are in use"):
        model.open_session()
    with pytest.raises(ValueError, match="all 2 sessions"):
        a.fork()
    with pytest.raises(ValueError, match="twice in a forward"):
        model.forward_together([(a, [1]), (a, [2])])
    with pytest.raises(ValueError, match="65 tokens, the context holds 64.*--max-seq-length, up to 131072"):
        model.forward_together([(a, [1] * 65)])
    with pytest.raises(ValueError, match="vocabulary"):
        model.forward_together([(a, [VOCAB])])
    with pytest.raises(ValueError, match="cannot be rewound to 1"):
        a.rewind(1)
    other = load_artifact(artifact).open_session()
    with pytest.raises(ValueError, match="another model"):
        model.forward_together([(other, [1])])
    with pytest.raises(ValueError, match="not None"):
        model.forward_together([(None, [1])])
    with pytest.raises(ValueError, match="is being generated in this session"):
        model.generate(TOKENS[:3], 2, on_token=lambda token: model.forward([1], 0, [0]))
    a.drop()
    with pytest.raises(ValueError, match="was dropped"):
        a.save()
    assert model.open_session().position == 0
    with pytest.raises(ValueError, match="sessions is 0"):
        load_artifact(artifact, sessions=0)
    with pytest.raises(ValueError, match="131073 tokens is outside 1..131072"):
        load_artifact(artifact, context_length=131073)
    with pytest.raises(ValueError, match="cache_dtype is 'fp8'"):
        load_artifact(artifact, cache_dtype="fp8")


def test_stock_operators_have_one_session(folder):
    for choice, words in (({"sessions": 2}, "one session, not 2"), ({"context_length": 32}, "not 32"),
                          ({"cache_dtype": "int8"}, "--delegate lowbit")):  # fmt: skip
        with pytest.raises(ValueError, match=f"in the graph.*{words}"):
            load_artifact(folder / "stock.pte", **choice)
    session = load_artifact(folder / "stock.pte").open_session()
    for act, word in ((session.fork, "forked"), (session.save, "saved")):
        with pytest.raises(ValueError, match=f"lies in its graph, for one session: it cannot be {word}"):
            act()
    done = generated(folder / "stock.pte", "--prompt", "hello", "--max-new-tokens", 3, "--num-samples", 2)
    assert done.returncode == 0 and done.stdout.count("hello") == 2  # one after the other
    line = run(ET_RUN, folder / "stock.pte", "--tokens", "1", "--max-seq-length", 32, "-n", 1).error_line()
    assert "in the graph" in line and "not 32" in line


def test_more_than_there_is_memory_for(tmp_path):
    tiny.make_hf(tmp_path / "m", "llama3.1", num_hidden_layers=60, num_key_value_heads=4)
    export(tmp_path / "m", "--max-seq-length", 32, "--output-pte", tmp_path / "m.pte")
    words = "1000 contexts of 131072 tokens needs .* GB, there are .* GB; give --max-seq-length ([0-9]+), "
    with pytest.raises(ValueError, match=words) as refused:
        load_artifact(tmp_path / "m.pte", context_length=131072, sessions=1000)
    fits = int(re.search(words, str(refused.value))[1])
    assert fits % 16 == 0
    # What there is changes meanwhile.
    load_artifact(tmp_path / "m.pte", context_length=fits * 9 // 10, sessions=1000)
    with pytest.raises(ValueError, match="fewer sessions, or a smaller --cache-dtype"):
        load_artifact(tmp_path / "m.pte", context_length=min(131072, fits * 11 // 10), sessions=1000)


@pytest.mark.parametrize("cache", ["fp32", "int8", "int4"])
def test_choices_at_the_start_are_those_at_export(cache, folder, tmp_path):
    """The same bits, whether context and cache type were the artifact's or the program's choice."""
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 32, "--cache-dtype", cache,
           "--output-pte", tmp_path / "m.pte", "--output-aoti-package", tmp_path / "m.pt2")  # fmt: skip
    for name in ("m.pte", "m.pt2"):
        chosen = logits(folder / name, TOKENS, tmp_path, "--cache-dtype", cache)
        exported = logits(tmp_path / name, TOKENS, tmp_path, "--max-seq-length", 50)
        assert np.array_equal(chosen, exported)
        assert not np.array_equal(chosen, logits(folder / name, TOKENS, tmp_path))
        ids = ",".join(map(str, TOKENS))
        refused = run(runner_of(tmp_path / name), tmp_path / name, "--tokens", ids, "-n", 1)
        assert "50 tokens, the context holds 32" in refused.error_line()


def test_flags_of_the_programs(folder):
    for runner, name in ((ET_RUN, "m.pte"), (AOTI_RUN, "m.pt2")):
        for flags, words in (
            (("--max-seq-length", "0"), "from 1 to"),
            (("--cache-dtype", "fp8"), "auto, float32"),
            (("--max-seq-length", "200000"), "1..131072"),
        ):
            failed = run(runner, folder / name, "--tokens", "1", "-n", 1, *flags)
            assert failed.status in (1, 2) and words in failed.error_line()
        assert run(runner, folder / name, "--tokens", "1", "-n", 1, "--cache-dtype", "auto").status == 0


def generated(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "exporter", "generate", *map(str, words)], cwd=ROOT, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def test_samples_are_decoded_together(artifact):
    model = load_artifact(artifact, sessions=4)
    steps = {"steps": 12, "seed": 5, "temperature": 1.5}
    together = model.generate_samples(TOKENS[:6], 4, **steps)
    assert len({tuple(sample.ids) for sample in together}) == 4
    for i, sample in enumerate(together):
        assert sample.ids == load_artifact(artifact).generate(TOKENS[:6], **{**steps, "seed": 5 + i}).ids
    with pytest.raises(ValueError, match="5 replies at once need as many sessions; there is this one and 3"):
        model.generate_samples(TOKENS[:6], 5, **steps)

    words = (artifact, "--prompt", "hello", "--max-new-tokens", 5, "--seed", 3, "--temperature", 2)
    done = generated(*words, "--num-samples", 3)
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("hello")[1:]
    singles = [generated(*words[:-3], 3 + i, *words[-2:]).stdout.split("hello")[1] for i in range(3)]
    assert [text.strip() for text in texts] == [text.strip() for text in singles]


def test_an_artifact_with_the_cache_in_its_graph_names_what_to_do(artifact, monkeypatch, tmp_path):
    from exporter.artifact import metadata

    monkeypatch.setattr(metadata, "SCHEMA_VERSION", "4")
    path = tmp_path / f"old{artifact.suffix}"
    flag = "--output-pte" if artifact.suffix == ".pte" else "--output-aoti-package"
    export(artifact.parent / "m", "--quantize", "q4", flag, path)
    line = run(runner_of(path), path, "--tokens", "1", "-n", 1).error_line()
    assert "older release" in line and f"python -m exporter MODEL {flag} {path}" in line


def test_any_sequence(artifact):
    for isa in session_fuzz.isas(ROOT / "cmake-out"):
        said = session_fuzz.fuzz(artifact, 100, seed=2, isa=isa)
        assert f"100 sequences on {isa}" in said and "restored" in said
