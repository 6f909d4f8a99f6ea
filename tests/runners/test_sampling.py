"""Processed logits, what is sampled from and where a text ends are transformers', on the same logits."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
import transformers
from transformers.generation import StopStringCriteria
from transformers.generation import logits_process as reference

from exporter.cli import model_options
from exporter.cli.command_line import Parser
from exporter.model import generation_settings
from exporter.pipeline import prepare
from exporter.runners import eager
from exporter.runners import native as _runner

VOCABULARY = 200
TRIALS = 1500


def random_logits(rng: random.Random) -> np.ndarray:
    """Logits of a scale that differs, some of them rounded so that many are equal."""
    logits = np.random.default_rng(rng.getrandbits(32)).normal(size=VOCABULARY) * rng.choice([1, 4, 12])
    rounded = rng.random() < 0.3
    return (np.round(logits * 2) / 2 if rounded else logits).astype(np.float32)


def random_history(rng: random.Random) -> tuple[list[int], int]:
    """Tokens of which many are there several times, and how many of them are the prompt."""
    kinds = rng.choice([3, 20, VOCABULARY])
    tokens = [rng.randrange(kinds) for _ in range(rng.randint(1, 60))]
    return tokens, rng.randint(0, len(tokens))


def random_processors(rng, tokens: list[int], prompt: int):
    """Settings, and transformers' processors in the order of its _get_logits_processor."""
    settings, processors = {}, reference.LogitsProcessorList()

    def some_tokens() -> tuple[int, ...]:
        before = tuple(tokens[len(tokens) - rng.randint(0, 3) :])
        return (*before, rng.randrange(20))

    if rng.random() < 0.4:
        settings["logit_bias"] = {some_tokens(): rng.uniform(-9, 9) for _ in range(rng.randint(1, 6))}
        processors.append(reference.SequenceBiasLogitsProcessor(settings["logit_bias"]))
    if rng.random() < 0.4:
        settings["repetition_penalty"] = rng.choice([1.1, 0.7, rng.uniform(0.5, 3)])
        processors.append(reference.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if rng.random() < 0.4:
        settings["no_repeat_ngram_size"] = rng.randint(1, 4)
        processors.append(reference.NoRepeatNGramLogitsProcessor(settings["no_repeat_ngram_size"]))
    if rng.random() < 0.3:
        settings["bad_words_ids"] = [list(some_tokens()) for _ in range(rng.randint(1, 6))]
        processors.append(reference.NoBadWordsLogitsProcessor(settings["bad_words_ids"]))
    if rng.random() < 0.3:
        settings["begin_suppress_tokens"] = [rng.randrange(VOCABULARY) for _ in range(5)]
        processors.append(
            reference.SuppressTokensAtBeginLogitsProcessor(settings["begin_suppress_tokens"], prompt)
        )
    return settings, processors


def random_filters(rng):
    """Settings, and transformers' filters in the order of its _get_logits_processor."""
    settings, filters = {"temperature": 1.0}, reference.LogitsProcessorList()
    if rng.random() < 0.6:
        settings["temperature"] = rng.choice([0.7, 2.0, rng.uniform(0.1, 3)])
        filters.append(reference.TemperatureLogitsWarper(settings["temperature"]))
    for name, values, make in (
        ("top_k", [1, 5, 40, 150], reference.TopKLogitsWarper),
        ("top_p", [0.1, 0.5, 0.95, rng.random()], reference.TopPLogitsWarper),
        ("min_p", [0.05, 0.1, 0.5, rng.random()], reference.MinPLogitsWarper),
        ("typical_p", [0.2, 0.5, 0.95, rng.uniform(0.01, 0.99)], reference.TypicalLogitsWarper),
    ):
        if rng.random() < 0.4:
            settings[name] = rng.choice(values)
            filters.append(make(settings[name]))
    return settings, filters


def test_processed_logits_are_transformers():
    """To the bit: both compute in float32."""
    rng, chosen = random.Random(1), Counter()
    for _ in range(TRIALS):
        logits, (tokens, prompt) = random_logits(rng), random_history(rng)
        settings, processors = random_processors(rng, tokens, prompt)
        expected = processors(torch.tensor([tokens]), torch.from_numpy(logits)[None].clone())[0].numpy()
        sampler = _runner.make_sampler(temperature=0, **settings)
        assert np.array_equal(sampler.processed(logits, tokens, prompt), expected), settings
        if np.isfinite(expected).any():
            assert sampler.probabilities(logits, tokens, prompt) == {int(expected.argmax()): 1.0}
            chosen["moved"] += expected.argmax() != logits.argmax()
    assert chosen["moved"] > TRIALS / 10


def test_frequency_and_presence_are_openais():
    """logit[j] - count[j] * frequency - (count[j] > 0) * presence, of the tokens that were chosen."""
    rng = random.Random(2)
    for _ in range(200):
        logits, (tokens, prompt) = random_logits(rng), random_history(rng)
        frequency, presence = np.float32(rng.uniform(-2, 2)), np.float32(rng.uniform(-2, 2))
        expected = logits.copy()
        for token, count in Counter(tokens[prompt:]).items():
            expected[token] = expected[token] - frequency * np.float32(count) - presence
        sampler = _runner.make_sampler(frequency_penalty=float(frequency), presence_penalty=float(presence))
        assert np.array_equal(sampler.processed(logits, tokens, prompt), expected)


def test_what_is_sampled_from_is_transformers():
    """In double precision, where roundings do not decide; of equal logits the same number is kept."""
    rng, kept = random.Random(3), set()
    for _ in range(TRIALS):
        logits = random_logits(rng)
        settings, filters = random_filters(rng)
        scores = filters(torch.tensor([[1]]), torch.from_numpy(logits)[None].double())[0]
        expected = torch.softmax(scores, -1).numpy()
        actual = np.zeros(VOCABULARY)
        for token, probability in _runner.make_sampler(**settings).probabilities(logits, [1], 1).items():
            actual[token] = probability
        assert np.array_equal(np.sort(logits[actual > 0]), np.sort(logits[expected > 0])), settings
        assert np.abs(np.sort(actual) - np.sort(expected)).max() < 1e-12, settings
        kept.add(int((actual > 0).sum()))
    assert len(kept) > VOCABULARY / 4


def test_samples_have_the_probabilities():
    sampler = _runner.make_sampler(temperature=0.8, typical_p=0.9, repetition_penalty=1.5)
    logits = random_logits(random.Random(4))
    expected = sampler.probabilities(logits, [1, 2, 3], 3)
    draws = 20000
    counts = Counter(sampler.sample(logits, [1, 2, 3], 3) for _ in range(draws))
    assert counts.keys() <= expected.keys()
    for token, probability in expected.items():
        spread = (probability * (1 - probability) / draws) ** 0.5
        assert abs(counts[token] / draws - probability) < 5 * spread + 1 / draws


def test_numbers_are_the_exporters():
    expected = [dataclasses.astuple(setting) for setting in generation_settings.NUMBERS]
    assert _runner.sampling_numbers() == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling")
    tiny.make_hf(folder / "model", "llama3")
    (folder / "model" / "generation_config.json").unlink()
    return folder


def described(folder):
    parser = Parser()
    model_options.add_model_options(parser)
    request = model_options.model_request(
        str(folder / "model"), parser.parse_args(["--max-seq-length", "256"])
    )
    return prepare.prepare(request, ())


LISTS = {
    "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "bad_words_ids": [[1], [40], [50, 60]],
    "begin_suppress_tokens": list(range(100, 300)), "sequence_bias": [[[70], 9.5], [[80, 90], -2.0]],
    "suppress_tokens": list(range(20)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        ("generation_config.json", {"repetition_penalty": 1.3}),
        ("config.json", {"no_repeat_ngram_size": 1}),
        ("generation_config.json", LISTS),
    ],
)
def test_the_authors_settings_give_transformers_tokens(folder, place, settings):
    model = folder / "model"
    config, path = tiny.read_json(model / "config.json"), model / "generation_config.json"
    written = {"do_sample": False, "eos_token_id": 1, **settings}
    try:
        tiny.write_json(model / place, written if place == path.name else config | written)
        theirs = transformers.LlamaForCausalLM.from_pretrained(model)
        ours = eager.eager_model(described(folder))
    finally:
        path.unlink(missing_ok=True)
        tiny.write_json(model / "config.json", config)
    off = {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "bad_words_ids": [], "logit_bias": {}}
    changed = 0
    for seed in range(2):
        ids = tiny.prompt(12, seed)
        expected = theirs.generate(ids, max_new_tokens=30, attention_mask=torch.ones_like(ids))
        found = ours.generate(ids[0].tolist(), 30)
        assert found.ids == [token for token in expected[0, ids.shape[1] :].tolist() if token != 1]
        changed += found.ids != ours.generate(ids[0].tolist(), 30, **off).ids
    assert changed


class TestStopStrings:
    @pytest.fixture(scope="class")
    def scripted(self, folder):
        """A model that says `script` after whatever prompt, and transformers' tokenizer."""
        metadata = described(folder).metadata.to_strings()
        width = int(metadata["vocab_size"])
        model = None
        script: list[int] = []

        def forward(tokens, start_pos, rows):
            logits = np.zeros((len(rows), width), np.float32)
            for i, row in enumerate(rows):
                logits[i, script[min(start_pos + int(row) + 1, len(script) - 1)]] = 9
            return logits

        model = _runner.make_python_model(metadata, forward)
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "model" / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
        )
        return model, script, theirs

    def random_ids(self, rng, model) -> list[int]:
        """Text in pieces that a tokenizer would not always make, and special tokens in it."""
        ids = []
        for _ in range(rng.randint(2, 12)):
            text = rng.choice(tiny.TEXT)
            start = rng.randrange(len(text))
            ids += model.tokenizer.encode(text[start : start + rng.randint(1, 6)], parse_special=False)
            ids += [0] * (rng.random() < 0.1)
        return ids

    def test_a_text_ends_where_transformers_ends_it(self, scripted):
        model, script, theirs = scripted
        rng, found = random.Random(5), Counter()
        for _ in range(250):
            prompt, said = self.random_ids(rng, model), self.random_ids(rng, model)
            text = theirs.decode(prompt + said, skip_special_tokens=False)
            stops = []
            for _ in range(rng.randint(1, 3)):
                start = rng.randrange(len(text))
                stops.append(text[start : start + rng.randint(1, 5)])
            if "\ufffd" in "".join(stops):
                continue
            script[:] = prompt + said
            criteria = StopStringCriteria(theirs, stops)
            ends = [bool(criteria(torch.tensor([script[: len(prompt) + n + 1]]), None)[0])
                    for n in range(len(said))]  # fmt: skip
            told = []
            result = model.generate(
                prompt, len(said), temperature=0, stop_ids=[], stop_strings=stops, on_text=told.append
            )
            assert "".join(told) == result.text
            if True not in ends:
                assert (result.reason, result.ids) == ("steps", said)
                assert result.text == model.generate(prompt, len(said), temperature=0, stop_ids=[]).text
                found["no"] += 1
                continue
            last = ends.index(True)
            assert (result.reason, result.ids) == ("stop_string", said[: last + 1])
            inside = self.cut(model, prompt, said[: last + 1], stops, result.text)
            found["inside" if inside else "across"] += 1
        assert min(found["no"], found["inside"], found["across"]) > 20, found

    def cut(self, model, prompt: list[int], said: list[int], stops: list[str], text: str) -> bool:
        """Whether `text` is what comes before a stop string that begins in it."""
        whole = model.generate(prompt, len(said), temperature=0, stop_ids=[]).text
        assert whole.startswith(text)
        assert not any(stop in text for stop in stops)
        return any(whole.startswith(text + stop) for stop in stops)

    def test_special_tokens_have_names(self, scripted):
        model, script, _ = scripted
        ids = model.tokenizer.encode("Once upon")
        script[:] = [*ids, *ids, 0, *ids]
        result = model.generate(ids, 20, temperature=0, stop_ids=[], stop_strings=["<s>"])
        assert (result.reason, result.text, result.ids) == ("stop_string", "Once upon", [*ids, 0])
        result = model.generate(ids, 20, temperature=0, stop_ids=[], stop_strings=["n<s>Once"])
        assert (result.reason, result.text) == ("stop_string", "Once upo")
