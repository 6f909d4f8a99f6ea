"""What is read from generation_config.json, config.json and GGUF, what is said, what is refused."""

import json
import math

import gguf
import pytest
import tiny
import transformers

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.model import generation_settings
from exporter.model.generation_settings import sampling_settings

VOCABULARY = 100


def read(generation: dict, stop_ids=(2,)) -> tuple[dict, list[str]]:
    text, lines = sampling_settings(generation, VOCABULARY, stop_ids)
    return json.loads(text, parse_constant=pytest.fail), lines


def test_every_key_of_transformers_is_known():
    keys = {key for key in vars(transformers.GenerationConfig()) if key != "_original_object_hash"}
    assert keys - generation_settings.GENERATION_KEYS == set()
    ours = {"presence_penalty", "frequency_penalty", "_commit_hash", "decoder_start_token_id"}
    assert generation_settings.GENERATION_KEYS - keys <= ours


def test_what_transformers_writes_by_default_says_nothing():
    defaults = transformers.GenerationConfig._get_default_generation_params()
    assert read(defaults)[1] == read(transformers.GenerationConfig().to_dict())[1] == []
    assert read({}) == ({}, [])
    assert read({"temperature": None, "num_beams": None, "top_h": None}) == ({}, [])


def test_numbers_are_kept():
    given = {
        "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1,
        "typical_p": 0.9, "repetition_penalty": 1.05, "presence_penalty": 1.5,
        "frequency_penalty": -0.5, "no_repeat_ngram_size": 3,
    }  # fmt: skip
    kept, lines = read(given)
    assert (kept, lines) == ({key: given[key] for key in given if key != "do_sample"}, [])
    # Greedy, and the filters for who asks for a temperature.
    assert read({**given, "do_sample": False})[0] == {**kept, "temperature": 0.0}


def test_lists_are_kept():
    given = {
        "sequence_bias": [[[5], 1.5], [[6, 7], -math.inf]],
        "bad_words_ids": [[2], [8], [2, 9]],
        "suppress_tokens": [10, 11],
        "begin_suppress_tokens": [2, 12],
        "stop_strings": "###",
    }
    assert read(given) == (
        {
            "logit_bias": [[[5], 1.5]],
            "bad_words_ids": [[8], [2, 9], [6, 7], [10], [11]],  # without the end token alone
            "begin_suppress_tokens": [2, 12],
            "stop_strings": ["###"],
        },
        [],
    )
    assert read({"stop_strings": ["a", "b"], "suppress_tokens": []})[0] == {"stop_strings": ["a", "b"]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_beams": 4}, ["num_beams 4", "one token"]),
        ({"max_new_tokens": 512}, ["max_new_tokens 512", "-n"]),
        ({"epsilon_cutoff": 3e-4}, ["epsilon_cutoff 0.0003"]),
        ({"watermarking_config": {"bias": 2.5}}, ['watermarking_config {"bias": 2.5}']),
        ({"mirror_stages": [1] * 50}, ["mirror_stages [1, 1", "...", "nothing of this name"]),
        ({"suppress_tokens": [3, 100]}, ["suppress_tokens [100]", "end at 99"]),
        ({"bad_words_ids": [[3, -1]]}, ["bad_words_ids [3, -1]"]),
    ],
)
def test_what_is_not_applied_is_said_in_a_line(given, words):
    kept, (line,) = read(given)
    assert all(word in line for word in (*words, "not applied")), line
    assert kept == ({"bad_words_ids": [[3]]} if "suppress_tokens" in given else {})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": -1}, ["temperature is -1", "from 0 to 100"]),
        ({"temperature": math.nan}, ["temperature is nan"]),
        ({"top_p": True}, ["top_p is True"]),
        ({"top_k": 1.5}, ["top_k is 1.5", "whole"]),
        ({"repetition_penalty": 0}, ["repetition_penalty is 0", "from 0.01 to 100"]),
        ({"presence_penalty": 3}, ["presence_penalty is 3", "from -2 to 2"]),
        ({"stop_strings": ["a", ""]}, ["stop_strings"]),
        ({"suppress_tokens": ["a"]}, ["suppress_tokens"]),
        ({"bad_words_ids": [[]]}, ["bad_words_ids"]),
        ({"sequence_bias": {"5": 1.0}}, ["sequence_bias", "pairs"]),
        ({"sequence_bias": [[[5], math.inf]]}, ["sequence_bias"]),
    ],
)
def test_what_the_runner_would_refuse_is_refused(given, words):
    with pytest.raises(ValueError) as raised:
        read(given)
    assert all(word in str(raised.value) for word in (*words, "correct or remove"))


def test_an_older_config_counts_where_there_is_no_other_file(tmp_path):
    """As with transformers, which takes nothing of it beside a generation_config.json."""
    tiny.make_hf(tmp_path, "llama3")
    settings = {"repetition_penalty": 1.2, "top_k": 7, "do_sample": True, "stop_strings": ["x"]}
    tiny.write_json(tmp_path / "config.json", tiny.read_json(tmp_path / "config.json") | settings)

    def ours_and_theirs() -> tuple[dict, dict]:
        theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path).generation_config
        ours = open_checkpoint(str(tmp_path)).generation
        return {key: ours.get(key) for key in settings}, {key: getattr(theirs, key) for key in settings}

    ours, theirs = ours_and_theirs()
    assert ours == theirs == dict.fromkeys(settings)
    (tmp_path / "generation_config.json").unlink()
    ours, theirs = ours_and_theirs()
    assert ours == theirs == settings


def test_a_gguf_files_settings(tmp_path):
    """Under the keys that the `gguf` package writes."""
    model = tiny.make_hf(tmp_path / "model", "llama3")
    path = tmp_path / "a.gguf"
    write_header = gguf.GGUFWriter.write_header_to_file

    def with_settings(writer: gguf.GGUFWriter) -> None:
        writer.add_sampling_temp(0.6)
        writer.add_sampling_top_k(20)
        writer.add_sampling_top_p(0.95)
        writer.add_sampling_min_p(0.05)
        writer.add_sampling_penalty_repeat(1.05)
        writer.add_sampling_penalty_last_n(64)
        writer.add_sampling_mirostat(0)
        write_header(writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_settings)
        tiny.write_gguf(path, model)
    kept, (line,) = read(open_checkpoint(str(path)).generation)
    assert kept == {
        "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05
    }  # fmt: skip
    assert "penalty_last_n 64" in line
