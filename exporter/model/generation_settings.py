"""What a model's authors recommend for generating, as the runners take it.

`generation_config.json` holds it, in folders of older versions `config.json`, in GGUF files the fields
`general.sampling.*`. Names and meanings are those of transformers 5.23's GenerationConfig; presence and
frequency penalties, which it lacks, are OpenAI's. `runner/model/sampling_settings.cpp` has the same numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NumberSetting:
    """A setting that is a number: its range, the value that changes nothing, a line of help."""

    name: str
    letter: str  # that stands for the value in the help
    low: float
    high: float
    neutral: float
    example: float
    help: str
    above_low: bool = False  # `low` itself is not taken
    whole: bool = False

    def allows(self, value: float) -> bool:
        """Whether `value` is in the range, and whole where it must be."""
        inside = self.low < value if self.above_low else self.low <= value
        return inside and value <= self.high and (not self.whole or value == math.floor(value))

    def wanted(self) -> str:
        """What a value must be: "a number from 0 to 1, such as 0.9"."""
        kind = "a whole number" if self.whole else "a number"
        limits = (
            f"above {self.low} and at most {self.high}"
            if self.above_low
            else f"from {self.low} to {self.high}"
        )
        return f"{kind} {limits}, such as {self.example}"


MOST_CANDIDATES = 1 << 24
MOST_BIAS = 3.4e38  # of a float32
# In the order in which they act.
NUMBERS = (
    NumberSetting("repetition_penalty", "R", 0.01, 100, 1, 1.1,
                  "make the text's tokens less likely, by the factor R of their logits; 1: off"),
    NumberSetting("frequency_penalty", "F", -2, 2, 0, 0.5,
                  "take F off a token's logit for each time it was generated; 0: off"),
    NumberSetting("presence_penalty", "F", -2, 2, 0, 0.5,
                  "take F off the logits of tokens that were generated; 0: off"),
    NumberSetting("no_repeat_ngram_size", "N", 0, MOST_CANDIDATES, 0, 3,
                  "write no N tokens in a row that the text has; 0: off", whole=True),
    NumberSetting("temperature", "T", 0, 100, 1, 0.8, "0: greedy"),
    NumberSetting("top_k", "K", 0, MOST_CANDIDATES, 0, 40,
                  "keep the K likeliest tokens; 0: off", whole=True),
    NumberSetting("top_p", "P", 0, 1, 1, 0.9,
                  "keep the likeliest tokens that reach probability P; 1: off"),
    NumberSetting("min_p", "M", 0, 1, 0, 0.05,
                  "keep tokens at least M times as likely as the likeliest; 0: off"),
    NumberSetting("typical_p", "P", 0, 1, 1, 0.95,
                  "keep the most typical tokens that reach probability P; 1: off", above_low=True),
)  # fmt: skip
LISTS = ("sequence_bias", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings")

# What changes a text and is not applied: the value, beside null and false, that changes nothing, and what
# to know or to do.
NOT_APPLIED: dict[str, tuple[object, str]] = {
    "constraints": (None, ""),
    "dola_layers": (None, ""),
    "encoder_no_repeat_ngram_size": (0, ""),
    "encoder_repetition_penalty": (1, ""),
    "epsilon_cutoff": (0, ""),
    "eta_cutoff": (0, ""),
    "exponential_decay_length_penalty": (None, ""),
    "force_words_ids": (None, ""),
    "forced_bos_token_id": (None, ""),
    "forced_eos_token_id": (None, ""),
    "guidance_scale": (1, ""),
    "max_length": (20, "give the most tokens of a run with -n"),
    "max_new_tokens": (None, "give the most tokens of a run with -n"),
    "max_time": (None, ""),
    "min_length": (0, ""),
    "min_new_tokens": (0, ""),
    "num_beams": (1, "one token is chosen at a time"),
    "num_return_sequences": (1, "a run writes one text"),
    "penalty_alpha": (0, ""),
    "remove_invalid_values": (False, "a logit that is no number is an error"),
    "token_healing": (False, ""),
    "top_h": (None, ""),
    "watermarking_config": (None, ""),
}
# The same of GGUF's fields.
NOT_APPLIED_OF_GGUF: dict[str, tuple[object, str]] = {
    "mirostat": (0, ""),
    "penalty_last_n": (-1, "penalties count all tokens"),
    "sequence": (None, "the filters have one order"),
    "xtc_probability": (0, ""),
}
BEGIN_AND_END = ("bos_token_id", "eos_token_id")
TOKEN_IDS = frozenset({*BEGIN_AND_END, "pad_token_id", "decoder_start_token_id"})
# What changes no text of one sequence without beams, or only how it is computed.
HARMLESS_SETTINGS = frozenset(
    """_commit_hash _from_model_config assistant_confidence_threshold assistant_early_exit
    assistant_ensemble_weight assistant_lookbehind cache_config cache_implementation compile_config
    continuous_batching_config disable_compile diversity_penalty early_stopping is_assistant
    length_penalty low_memory max_cache_len max_matching_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule num_beam_groups output_attentions output_hidden_states output_logits
    output_scores prefill_chunk_size prompt_lookup_num_tokens renormalize_logits
    return_dict_in_generate speculation_type target_lookbehind transformers_version use_cache
    use_mtp""".split()
)
# Every key of a GenerationConfig; the config.json of an older version may hold them too.
GENERATION_KEYS = frozenset(
    {setting.name for setting in NUMBERS} | {"do_sample", *LISTS, *NOT_APPLIED}
    | TOKEN_IDS | HARMLESS_SETTINGS
)


def from_config(fields: Mapping[str, object]) -> dict[str, object]:
    """The generation settings in a `config.json`, which count where there is no file of their own."""
    wanted = GENERATION_KEYS - TOKEN_IDS
    return {key: fields[key] for key in fields if key in wanted and fields[key] is not None}


def from_gguf(fields: Mapping[str, object]) -> dict[str, object]:
    """The generation settings in a GGUF file's fields, by transformers' names where it has them."""
    names = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
    known = {"top_k", "top_p", "min_p", *NOT_APPLIED_OF_GGUF} | names.keys()
    found = {}
    for key, value in fields.items():
        name = key.removeprefix("general.sampling.")
        if name != key and name in known:
            # A float32, in its shortest decimal form.
            found[names.get(name, name)] = float(f"{value:.7g}") if isinstance(value, float) else value
    return found


def sampling_settings(
    generation: Mapping[str, object], vocab_size: int, stop_ids: Collection[int]
) -> tuple[str, list[str]]:
    """JSON for the metadata key `sampling`, and a line for each setting that is not applied.

    `stop_ids` are the tokens that end a generation: bad_words_ids forbids none of them, as in
    transformers. Raises ValueError for a value that the runner would refuse.
    """
    given = {key: value for key, value in generation.items() if value is not None}
    kept = {s.name: _number(s, given[s.name]) for s in NUMBERS if s.name in given}
    if not given.get("do_sample", True):
        kept["temperature"] = 0.0
    lists = _Lists(given, vocab_size)
    biases = lists.biases()
    never = lists.bad_words(stop_ids) + [tokens for tokens, bias in biases if bias == -math.inf]
    kept |= {
        "logit_bias": [[tokens, bias] for tokens, bias in biases if bias != -math.inf],
        "bad_words_ids": never + [[token] for token in lists.tokens("suppress_tokens")],
        "begin_suppress_tokens": lists.tokens("begin_suppress_tokens"),
        "stop_strings": _stop_strings(given.get("stop_strings", [])),
    }
    lines = _not_applied(given) + lists.lines
    return json.dumps({key: value for key, value in kept.items() if value != []}), lines


def _not_applied(given: Mapping[str, object]) -> list[str]:
    lines = []
    known = NOT_APPLIED | NOT_APPLIED_OF_GGUF
    for key in given.keys() - (GENERATION_KEYS - NOT_APPLIED.keys()):
        neutral, hint = known.get(key, (None, "nothing of this name is known"))
        if given[key] != neutral and given[key] is not False:
            lines.append(_line(key, given[key], hint))
    return sorted(lines)


def _line(key: str, value: object, hint: str) -> str:
    text = json.dumps(value)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return f"generation setting {key} {shown} is not applied" + (f": {hint}" if hint else "")


def _bad(key: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"generation setting {key} is {value!r}, not {wanted}; correct or remove it in "
        "generation_config.json, or in config.json where there is none"
    )


def _number(setting: NumberSetting, value: object) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and setting.allows(value)):
        raise _bad(setting.name, value, setting.wanted())
    return int(value) if setting.whole else value


def _stop_strings(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)):
        raise _bad("stop_strings", value, "a list of texts")
    return texts


class _Lists:
    """The settings that list tokens. `lines` says which tokens are none of the vocabulary."""

    def __init__(self, given: Mapping[str, object], vocab_size: int):
        self.given, self.vocab_size, self.lines = given, vocab_size, []

    def tokens(self, key: str) -> list[int]:
        """The ids of a list that are in the vocabulary."""
        value = self.given.get(key, [])
        if not _is_ids(value):
            raise _bad(key, value, "a list of token ids")
        return [token for token in value if self._inside(key, [token])]

    def bad_words(self, stop_ids: Collection[int]) -> list[list[int]]:
        """bad_words_ids without the tokens that end a generation."""
        value = self.given.get("bad_words_ids", [])
        if not (isinstance(value, list) and all(_is_ids(words) and words for words in value)):
            raise _bad("bad_words_ids", value, "a list of lists of token ids")
        ends = [[token] for token in stop_ids]
        return [words for words in value if words not in ends and self._inside("bad_words_ids", words)]

    def biases(self) -> list[tuple[list[int], float]]:
        """sequence_bias: tokens, and what is added to the last one's logit after the others."""
        value = self.given.get("sequence_bias", [])
        if not (isinstance(value, list) and all(_is_bias(item) for item in value)):
            raise _bad("sequence_bias", value, "a list of pairs, token ids and a number")
        return [(ids, bias) for ids, bias in value if self._inside("sequence_bias", ids)]

    def _inside(self, key: str, tokens: list[int]) -> bool:
        if all(0 <= token < self.vocab_size for token in tokens):
            return True
        self.lines.append(_line(key, tokens, f"token ids end at {self.vocab_size - 1}"))
        return False


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(token, int) and not isinstance(token, bool) for token in value
    )


def _is_bias(item: object) -> bool:
    if not (isinstance(item, list) and len(item) == 2 and _is_ids(item[0]) and item[0]):
        return False
    bias = item[1]
    number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
    return number and (abs(bias) <= MOST_BIAS or bias == -math.inf)
