"""Other projects' spellings are taken or answered with ours, and near misses name the nearest."""

import json
import re

import pytest
from native import ROOT

from exporter.cli import main as cli
from exporter.cli.command_line import Parser, UsageError
from exporter.cli.verbs import VERBS, eval, export, generate
from exporter.recipe.other_names import (
    FLAG_ANSWERS,
    QUANTIZATIONS,
    SAME_FLAGS,
    VERB_ANSWERS,
    quantization_answer,
    quantization_table,
)
from exporter.recipe.recipe import parse_recipe
from exporter.recipe.schemes import DELEGATES, SUPPORT
from exporter.util.nearest import nearest

EXPORT = ("smollm2", "--output-pte")


def parsed(verb, *words):
    parser = Parser()
    verb.configure(parser)
    return parser.parse_args(words)


def refused(capsys, *words) -> str:
    """The one line with which the command line `words` ends, with status 2."""
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("theirs", SAME_FLAGS)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("verb", [export, generate, eval])
def test_flags_that_are_taken(verb, theirs, joined):
    given = {generate: ("m", "--prompt", "x"), eval: ("m",), export: ("m",)}[verb]
    for spelling in (theirs, theirs.replace("-", "_").replace("__", "--", 1)):
        words = (f"{spelling}=some/path",) if joined else (spelling, "some/path")
        ours = vars(parsed(verb, *given, SAME_FLAGS[theirs], "some/path"))
        assert vars(parsed(verb, *given, *words)) == ours


@pytest.mark.parametrize(
    ("verb", "theirs", "ours"),
    [
        (export, "--output_aoti_package_path=a.pt2", "--output-aoti-package=a.pt2"),
        (export, "--max_autotune", "--max-autotune"),
        (eval, "--compile_prefill", "--compile-prefill"),
        (generate, "--num_samples=3", "--num-samples=3"),
    ],
)
def test_underscores_are_dashes(verb, theirs, ours):
    given = ("m", "--prompt", "x") if verb is generate else ("m",)
    assert parsed(verb, *given, theirs) == parsed(verb, *given, ours)


def test_values_are_left_alone():
    assert parsed(generate, "m", "--prompt", "--a_b c").prompt == "--a_b c"
    assert parsed(generate, "m", "--prompt=--a_b").prompt == "--a_b"
    assert parsed(export, "--output-pte", "a_b", "--", "some_model").model == "some_model"


def test_a_checkpoint_is_enough():
    request = export.request(parsed(export, "--gguf-path", "x/tiny_model.gguf", "--output_pte_path"))
    assert request.model.source.model == "x/tiny_model.gguf" and str(request.outputs.pte) == "tiny_model.pte"
    with pytest.raises(UsageError, match="llama3 was taken as an output's PATH; MODEL comes before"):
        export.request(parsed(export, "--output-pte", "llama3"))


@pytest.mark.parametrize("flag", FLAG_ANSWERS)
def test_flags_that_are_answered(capsys, flag):
    line = refused(capsys, *EXPORT, flag.replace("-", "_").replace("__", "--", 1), "7B")
    assert FLAG_ANSWERS[flag] in line


@pytest.mark.parametrize("verb", VERB_ANSWERS)
def test_verbs_that_are_answered(capsys, verb, tmp_path, monkeypatch):
    assert VERB_ANSWERS[verb] in refused(capsys, verb, "smollm2") and verb not in VERBS
    monkeypatch.chdir(tmp_path)
    (tmp_path / verb).mkdir()  # a folder of that name is a model
    assert cli.main([verb, "--output-pte"]) == 1
    assert f"{verb} holds no checkpoint: it is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ((*EXPORT, "--max-seqlength", "64"), "--max-seq-length"),
        ((*EXPORT, "--Quantise=q4"), "--quantize"),
        ((*EXPORT, "-dtype", "fp16"), "--dtype"),
        (("inspect", "a.pte", "--jsn"), "--json"),
        (("inpsect", "a.pte"), "inspect"),
        (("Export", "smollm2"), "export"),
        ((*EXPORT, "--delegate", "xnpack"), "xnnpack"),
        ((*EXPORT, "--dtype", "bfloat1"), "bfloat16"),
        ((*EXPORT, "--cache-dtype", "fp-16"), "fp16"),
        (("bench", "a.pte", "-o", "cvs"), "csv"),
        ((*EXPORT, "--quantize", "desktp.json"), "desktop"),
        ((*EXPORT, "--quantize", "my/pi5.json"), "pi5"),
        ((*EXPORT, "--quantize", '{"embeding:wx": {}}'), "embedding:wx"),
        ((*EXPORT, "--quantize", '{"precison": {"dtype": "fp16"}}'), "precision"),
        ((*EXPORT, "--quantize", '{"linear:a8wx": {"bit_width": 4}}'), "bitwidth"),
        ((*EXPORT, "--quantize", '{"linear:a8wx": {"scale_dtype": "int-8"}}'), "int8"),
        ((*EXPORT, "--quantize", '{"linear:a8wx": {"method": "rotat+gptq"}}'), "rotate"),
        ((*EXPORT, "--quantize", '{"executor": {"accelerator": "cpuu"}}'), "cpu"),
        (("smollm2", "--output-dso", "--target", "x86_64-v4"), "x86-64-v4"),
        (("exprot",), "export"),
    ],
)
def test_a_near_miss_names_the_nearest(capsys, words, near):
    assert f"(did you mean {near}?)" in refused(capsys, *words)


@pytest.mark.parametrize(("word", "verb"), [("downlaod", "download"), ("lst", "list"), ("chatt", "chat")])
def test_a_near_miss_of_another_projects_verb_is_answered(capsys, word, verb):
    line = refused(capsys, word, "smollm2")
    assert f"no verb, alias or path {word!r}; {verb}: {VERB_ANSWERS[verb]}" in line


def test_what_is_no_verb_is_said_to_be_no_path(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("nothere", "model_dir", "checkpoint", "browse_me"):
        line = refused(capsys, word)
        assert f"there is no verb, alias or path {word!r}; see" in line
        assert cli.main([word, "--output-pte"]) == 1
        assert f"{word!r} is neither an alias nor an existing path" in capsys.readouterr().err
    (tmp_path / "my_modl").mkdir()
    assert "'my_model' (did you mean my_modl?)" in refused(capsys, "my_model")
    (tmp_path / "chats").mkdir()  # spelled more like the word than a verb is
    assert "'chatss' (did you mean chats?)" in refused(capsys, "chatss")


@pytest.mark.parametrize(
    ("words", "owners"),
    [
        ((*EXPORT, "--compile_prefill"), "generate and eval"),
        ((*EXPORT, "--prompt=x"), "generate"),
        (("inspect", "a.pte", "--output-pte-path", "b.pte"), "export"),
        (("models", "--limit", "3"), "eval"),
    ],
)
def test_a_flag_of_other_verbs_names_them(capsys, words, owners):
    assert f"is no flag here, but of {owners}; see" in refused(capsys, *words)


def test_what_is_not_near_is_not_guessed(capsys):
    assert "did you mean" not in refused(capsys, *EXPORT, "--colour", "red")
    assert nearest("zzz", DELEGATES) is None
    # A name beside --checkpoint is only a name.
    assert cli.main(["bench1", "--checkpoint", "nosuch", "--output-pte"]) == 1
    assert "nosuch does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["config/data", "torchchat/quant_config", "quant_config"])
@pytest.mark.parametrize("name", ["mobile", "pi5"])
def test_torchchats_recipe_files(folder, name):
    assert parse_recipe(f"{folder}/{name}.json") == parse_recipe(name)


@pytest.mark.parametrize("entry", [e for e in SUPPORT if e.key != "none"], ids=lambda e: e.key)
def test_every_scheme_takes_its_bits(entry):
    """Also those that have one number of bits, which the recipe's JSON leaves out."""
    options = {"bitwidth": entry.bitwidths[-1], "groupsize": 32}
    recipe = parse_recipe(json.dumps({entry.key: options}))
    assert recipe.schemes()[0].bitwidth == entry.bitwidths[-1]
    assert ("bitwidth" in json.loads(recipe.to_json())[entry.key]) == (len(entry.bitwidths) > 1)
    with pytest.raises(ValueError, match="takes bitwidth"):
        parse_recipe(json.dumps({entry.key: {"bitwidth": 16}}))


@pytest.mark.parametrize(
    ("name", "bits"),
    [("Q5_K_S", 5), ("q6_k", 6), ("IQ2_XXS", 2), ("Q8_0", 8), ("tq2_0", 2), ("Q1_0", 1), ("8da4w-gptq", 4),
     ("torchao:8da4w", 4), ("int8wo", 8), ("int4wo-64", 4), ("Int4WeightOnlyConfig", 4), ("w8a8", 8),
     ("mxfp4", 4), ("3bit", 3), ("awq", 4), ("linear:hqq", 4), ("linear:a8w4dq-gptq", 4)],
)  # fmt: skip
def test_other_names_of_quantizations(capsys, name, bits):
    """The answer is what --quantize takes, and has the bits that the name says."""
    asked = json.dumps({name: {"groupsize": 32}}) if name.startswith("linear:") else name
    line = refused(capsys, *EXPORT, "--quantize", asked)
    answer = quantization_answer(name.split(":")[-1] if name.startswith("linear:") else name)
    assert line.endswith(answer) or line.endswith(f"'{answer}'")
    assert parse_recipe(answer).linear.bitwidth == bits


def test_names_that_ask_for_no_quantization(capsys):
    for name in ("F16", "bf16", "none"):
        assert "leave it out, and use --dtype" in refused(capsys, *EXPORT, "--quantize", name)


def test_the_table_of_names_is_in_the_document():
    assert quantization_table() in (ROOT / "docs" / "quantization.md").read_text()
    for row in QUANTIZATIONS:
        for name in re.split(", |; ", row.names.removeprefix("llama.cpp's ")):
            if name != "...":
                assert row.answer(name) == quantization_answer(name) is not None, name
