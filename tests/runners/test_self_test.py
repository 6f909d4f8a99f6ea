"""`--self-test`: what was stored at export is what the runners compute, and what is damaged is found."""

import json
import os
import signal
import subprocess
import time

import pytest
import session_fuzz
import tiny
from changed_package import changed, with_metadata, without_self_test
from native import AOTI_RUN, ET_RUN, ROOT, aoti_metadata, export, run, runner_of

WEIGHTS = "model/data/aotinductor/model/model_weights.blob"
CONTEXT = 64
A = {"text": "a", "ids": [5]}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("self-test")
    tiny.make_hf(folder / "m", "llama3.1")
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    tiny.write_json(folder / "m" / "tokenizer_config.json", config)
    export(folder / "m", "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-pte", folder / "m.pte",
           "--output-aoti-package", folder / "m.pt2")  # fmt: skip
    export(folder / "m", "--max-seq-length", 3, "--output-pte", folder / "short.pte")
    export(folder / "m", "--delegate", "stock", "--max-seq-length", CONTEXT,
           "--output-pte", folder / "stock.pte")  # fmt: skip
    return folder


def report(artifact, *flags, isa="") -> dict:
    done = subprocess.run([runner_of(artifact), artifact, "--self-test", "--json", *flags],
                          capture_output=True, text=True, env={**os.environ, "LOWBIT_ISA": isa})  # fmt: skip
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert said["passed"] == (done.returncode == 0) == (not said["wrong"])
    return said


@pytest.mark.parametrize("name", ["m.pte", "m.pt2"])
def test_the_same_answers_everywhere(folder, name):
    for isa in session_fuzz.isas(ROOT / "cmake-out"):
        for threads in ("1", "2"):
            said = report(folder / name, "--threads", threads, isa=isa)
            assert said["passed"] and said["isa"] == isa and said["threads"] == int(threads)
            assert (said["texts"], said["prompts"], said["positions"]) == (6, 3, 96)
            assert said["conversations"] > 0 and said["weight_bytes_per_second"] > 0


def test_a_context_shorter_than_the_prompts(folder):
    said = report(folder / "short.pte")
    assert said["passed"] and said["positions"] == 9


def test_stock_operators_have_no_bits_to_compare(folder):
    said = report(folder / "stock.pte")
    assert said["passed"] and said["prompts"] == 0 and said["texts"] == 6
    assert said["weight_bytes_per_second"] is None
    assert "not compared" in run(ET_RUN, folder / "stock.pte", "--self-test").text


def test_the_lines(folder):
    result = run(ET_RUN, folder / "m.pte", "--self-test")
    first, ids, logits, speed = result.text.splitlines()
    assert result.status == 0 and first == f"{folder / 'm.pte'}: self-test passed"
    assert "6 texts" in ids and "96 positions in 3 prompts" in logits and "tokens/s" in speed


def test_a_changed_weight_is_found(folder, tmp_path):
    def flip(name, data):
        if name != WEIGHTS:
            return data
        bytes = bytearray(data)
        bytes[len(bytes) // 2] ^= 4
        return bytes

    changed(folder / "m.pt2", tmp_path / "flipped.pt2", flip)
    said = report(tmp_path / "flipped.pt2")
    assert not said["passed"] and "the logits of prompt 1 have other bits" in said["wrong"]
    result = run(AOTI_RUN, tmp_path / "flipped.pt2", "--self-test")
    assert result.status == 1 and result.text.splitlines()[0].endswith("self-test FAILED")


def test_other_answers_are_named(folder, tmp_path):
    stored = json.loads(aoti_metadata(folder / "m.pt2")["self_test"])
    stored["texts"][1]["ids"][3] = 0
    stored["conversations"][0]["ids"].append(9)
    stored["logits"][2]["crc32"] ^= 1
    with_metadata(folder / "m.pt2", tmp_path / "other.pt2", self_test=stored)
    text, conversation, logits = report(tmp_path / "other.pt2")["wrong"]
    assert text.startswith("text 2: token 3 is ") and text.endswith(" instead of 0")
    assert conversation.startswith("conversation 1: token ") and "is the end instead of 9" in conversation
    assert logits == "the logits of prompt 3 have other bits"


def test_another_chat_template_is_found(folder, tmp_path):
    chat = json.loads(aoti_metadata(folder / "m.pt2")["chat"])
    chat["tree"].insert(-1, ["const", "x"])
    chat["tree"].insert(-1, ["out", len(chat["tree"]) - 2])
    chat["tree"][-1].append(len(chat["tree"]) - 2)
    with_metadata(folder / "m.pt2", tmp_path / "chat.pt2", chat=chat)
    assert report(tmp_path / "chat.pt2")["wrong"][0].startswith("conversation 1: ")


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        ("", "damaged"), ("{", "damaged"), ("[]", "damaged"), ('"a"', "damaged"),
        ({"texts": [], "conversations": [], "logits": [], "weight_bytes": None}, "empty"),
        ({"texts": [{"text": "a", "ids": ["b"]}]}, "damaged"),
        ({"texts": [], "conversations": [], "logits": [{"prompt": [], "next": [], "crc32": 0}],
          "weight_bytes": None}, "damaged"),
        ({"texts": [A], "conversations": [], "logits": [{"prompt": [9**9], "next": [], "crc32": 0}],
          "weight_bytes": None}, "vocabulary"),
        ({"texts": [A], "conversations": [], "logits": [{"prompt": [1] * 99, "next": [], "crc32": 0}],
          "weight_bytes": None}, "context"),
        ("[" * 100_000, "damaged"),
    ],
)  # fmt: skip
def test_damaged_self_tests(folder, tmp_path, stored, word):
    with_metadata(folder / "m.pt2", tmp_path / "damaged.pt2", self_test=stored)
    result = run(AOTI_RUN, tmp_path / "damaged.pt2", "--self-test")
    assert result.status == 1 and word in result.error_line()
    assert run(AOTI_RUN, tmp_path / "damaged.pt2", "--tokens", "5", "-n", "1").status == 0


def test_an_artifact_without_one_says_so(folder, tmp_path):
    changed(folder / "m.pt2", tmp_path / "older.pt2", without_self_test)
    line = run(AOTI_RUN, tmp_path / "older.pt2", "--self-test").error_line()
    assert "no self-test" in line and "export it again" in line


def test_a_context_larger_than_memory_is_not_asked_for(tmp_path):
    tiny.make_hf(tmp_path / "m", "llama3.1", num_hidden_layers=30, max_position_embeddings=1 << 20)
    export(tmp_path / "m", "--max-seq-length", 64, "--output-aoti-package", tmp_path / "m.pt2")
    with_metadata(tmp_path / "m.pt2", tmp_path / "long.pt2", context_length=str(1 << 20))
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -v 3000000; exec {AOTI_RUN} {tmp_path / 'long.pt2'} --self-test"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert limited.returncode == 0, limited.stderr


def test_interrupted(folder):
    for delay in (0.05, 0.2, 0.5):
        running = subprocess.Popen([ET_RUN, folder / "m.pte", "--self-test"], stdout=subprocess.PIPE,
                                   env={**os.environ, "LOWBIT_ISA": "scalar"})  # fmt: skip
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        said = running.communicate()[0]
        assert (running.returncode, said) == (130, b"") or running.returncode in (0, -signal.SIGINT)


def test_contents_that_a_template_refuses(tmp_path):
    """They are in no self-test, and the export goes on."""
    tiny.make_hf(tmp_path / "m", "llama3.1")
    refusing = TEMPLATE.replace("{{ m['role'] }}", "{% if '<b>' in m['content'] %}"
                                "{{ raise_exception('no markup') }}{% endif %}{{ m['role'] }}")  # fmt: skip
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": refusing}
    tiny.write_json(tmp_path / "m" / "tokenizer_config.json", config)
    export(tmp_path / "m", "--max-seq-length", 64, "--output-pte", tmp_path / "m.pte")
    said = report(tmp_path / "m.pte")
    assert said["passed"] and said["conversations"] in (0, 4)


@pytest.mark.parametrize(
    "flags",
    [["-i", "a"], ["--tokens", "1"], ["-m", "chat"], ["--stats"], ["--tokenize"], ["-z", "t"],
     ["--max-seq-length", "9"], ["--cache-dtype", "int8"], ["--logits-out", "l.npy"]],
)  # fmt: skip
def test_what_does_not_go_with_it(folder, flags):
    result = run(ET_RUN, folder / "m.pte", "--self-test", *flags)
    assert result.status == 2 and "--self-test" in result.error_line()
