"""The real model, SmolLM2-135M: text and tokens of every artifact against eager float32."""

import numpy as np
import pytest
import torch
from native import AOTI_RUN, ET_RUN, generate, logits, run, stats

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.tokenizer.tokenizer import read_tokenizer

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees Celsius because",
    "La lune est",
)
N_TOKENS = 64
CAPITAL = [504, 3575, 282, 4649, 314]


@pytest.fixture(scope="module")
def eager():
    """The checkpoint's tokenizer, and a function from token ids to float32 logits [T, V]."""
    checkpoint = open_checkpoint("smollm2")
    model = load_model(checkpoint, torch.float32, 512)
    tokenizer = read_tokenizer(checkpoint.tokenizer_path)

    class Session:
        def __init__(self):
            self.session, self.position = model.new_session(), 0

        def forward(self, ids: list[int]) -> torch.Tensor:
            with torch.no_grad():
                start, rows = self.position, torch.arange(len(ids))
                self.position += len(ids)
                return self.session.read(torch.tensor([ids]), start, rows)

    return tokenizer, Session


def greedy(session, ids: list[int], count: int) -> list[int]:
    generated, step = [], ids
    for _ in range(count):
        generated.append(int(session.forward(step)[-1].argmax()))
        step = generated[-1:]
    return generated


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_equal_eager(prompt, artifacts, eager, tmp_path):
    tokenizer, session = eager
    ids = tokenizer.encode(prompt)
    generated = greedy(session(), ids, N_TOKENS)
    expected = prompt + tokenizer.decode(generated)
    for artifact in artifacts:
        arguments = ("-t", 0, "-n", N_TOKENS, "--ignore-eos", "-i", prompt)
        assert generate(artifact, *arguments) == expected + "\n"
        # The text could hide a different split into tokens: the artifact's own choice at every
        # position of the whole sequence must be the next token.
        rows = logits(artifact, ids + generated[:-1], tmp_path)
        assert rows[len(ids) - 1 :].argmax(-1).tolist() == generated


def test_prefill_chunks_do_not_change_the_text(artifacts):
    prompt = PROMPTS[1]
    for artifact in artifacts:
        texts = {
            generate(artifact, "-t", 0, "-n", 16, "-i", prompt, "--prefill-chunk", chunk)
            for chunk in (256, 5, 1)
        }
        assert len(texts) == 1


def test_names_paris(artifacts):
    for artifact in artifacts:
        assert "Paris" in generate(artifact, "-t", 0, "-n", 12, "-i", PROMPTS[0])


def test_logits_out_equals_eager(artifacts, eager, tmp_path):
    expected = eager[1]().forward(CAPITAL).numpy()
    for artifact in artifacts:
        actual = logits(artifact, CAPITAL, tmp_path)
        assert actual.shape == (5, 49152) and actual.dtype == np.float32
        dot = (actual * expected).sum(-1)
        cosine = dot / np.linalg.norm(actual, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert cosine.min() > 0.9999


def test_chat_of_four_turns_ends_cleanly(artifacts):
    turns = "Hello!\nWhat is the capital of Italy?\nAnd of Spain?\nThank you.\n"
    result = run(AOTI_RUN, artifacts[2], "-m", "chat", "-t", 0, "-n", 75, stdin=turns)
    assert result.status == 0 and result.errors == ""
    assert "Rome" in result.text and "Madrid" in result.text
    assert "<|im_" not in result.text


def test_llama_version_flag_is_checked(artifacts):
    assert "Paris" in generate(artifacts[0], "-l3", "-t", 0, "-n", 8, "-i", PROMPTS[0])
    refused = run(ET_RUN, artifacts[0], "-l2", "-t", 0, "-n", 8, "-i", PROMPTS[0])
    assert refused.status == 1 and "-l" in refused.error_line()


def test_generates_to_a_stop_token(artifacts):
    # `-n 0`: SmolLM2 ends this answer by itself, long before the context does.
    result = run(AOTI_RUN, artifacts[1], "-t", 0, "-n", 0, "-i", PROMPTS[0], "-v")
    assert result.status == 0
    assert "stop token" in result.errors


def test_seed_reproduces(artifacts):
    arguments = ("-t", 0.8, "-p", 0.9, "-n", 12, "-i", PROMPTS[0], "-s")
    texts = [generate(artifacts[1], *arguments, seed) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_stats(artifacts):
    for artifact in artifacts:
        numbers = stats(artifact, "-t", 0, "-n", 8, "-i", PROMPTS[0])
        assert numbers["prompt_tokens"] == 5 and numbers["generated_tokens"] == 8
        assert numbers["decode_tokens_per_second"] > 0 and numbers["peak_rss_bytes"] > 0
