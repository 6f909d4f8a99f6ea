"""Recipes: what is accepted, what is refused and in which words."""

import json

import pytest
from native import ROOT

from exporter.cli.command_line import Parser, UsageError
from exporter.cli.verbs import export
from exporter.recipe.recipe import (
    Recipe,
    check_supported,
    parse_recipe,
    resolve_device,
    resolve_dtype,
    slow_paths,
)
from exporter.recipe.schemes import (
    AOTI,
    BACKENDS,
    DELEGATES,
    EXECUTORCH,
    LOWBIT,
    STOCK,
    SUPPORT,
    XNNPACK,
    EmbeddingScheme,
    LinearScheme,
    support_table,
)
from exporter.recipe.source import RECIPE_FOLDER, ready_recipes

SHORT = {"q8": 8, "q6": 6, "q5": 5, "q4": 4, "q3": 3, "q2": 2}


def _parser() -> Parser:
    parser = Parser()
    export.configure(parser)
    return parser


def test_text_file_and_name_agree(tmp_path):
    text = '{"embedding": {"bitwidth": 4, "groupsize": 32}, "linear:a8w4dq": {"groupsize": 256}}'
    (tmp_path / "r.json").write_text(text)
    expected = Recipe(LinearScheme("linear:a8w4dq", 256, 4), EmbeddingScheme("embedding", 32, 4))
    assert parse_recipe(text) == parse_recipe(str(tmp_path / "r.json")) == expected
    assert parse_recipe("mobile") == parse_recipe("mobile.json") == expected


@pytest.mark.parametrize("path", RECIPE_FOLDER.glob("*.json"), ids=lambda path: path.stem)
def test_ready_recipes_round_trip(path):
    recipe = parse_recipe(str(path))
    assert parse_recipe(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json()) == json.loads(path.read_text())


@pytest.mark.parametrize("name", SHORT)
def test_short_recipes_ask_for_one_format(name):
    linear, embedding = parse_recipe(name).linear, parse_recipe(name).embedding
    fields = (32, SHORT[name], SHORT[name] < 5, "rtn")
    assert linear == LinearScheme("linear:a8wx", *fields)
    assert embedding == EmbeddingScheme("embedding:wx", *fields)
    assert name in ready_recipes() and name in _parser().format_help()


@pytest.mark.parametrize(
    "parts",
    [
        {"linear:a8wxdq": {"bitwidth": 3, "groupsize": 48, "has_weight_zeros": True}},
        {"linear:a8wxdq": {"bitwidth": 1, "groupsize": 0, "has_weight_zeros": True}},
        {"linear:a8wx": {"bitwidth": 7, "groupsize": 16, "method": "hqq"}},
        {"linear:a8wx": {"bitwidth": 4, "groupsize": 32, "scale_dtype": "int8"}},
        {"embedding:wx": {"bitwidth": 4, "groupsize": 32, "scale_dtype": "int8"}},
        {"embedding:wx": {"bitwidth": 6, "groupsize": 32, "bitwidth_from_row": {"48": 5, "160": 4}}},
        {
            "embedding:wx": {
                "bitwidth": 2,
                "groupsize": 0,
                "has_weight_zeros": True,
                "method": "hqq",
            }
        },
        {"embedding": {"bitwidth": 4, "groupsize": 80}, "linear:int4": {"groupsize": 80}},
    ],
    ids=json.dumps,
)
def test_schemes_round_trip(parts):
    assert json.loads(parse_recipe(json.dumps(parts)).to_json()) == parts


def test_defaults():
    recipe = parse_recipe('{"linear:a8wx": {}, "embedding:wx": {"bitwidth": 4}}')
    assert recipe.linear == LinearScheme("linear:a8wx", 32, 8)
    assert recipe.embedding == EmbeddingScheme("embedding:wx", 32, 4)
    assert parse_recipe('{"linear:int8": {}}').linear == LinearScheme("linear:int8", 0, 8)
    assert parse_recipe('{"embedding": {}}').embedding == EmbeddingScheme("embedding", 0, 8)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no such file"),
        ("nosuch", "mobile"),
        ("q7", "q6, q8"),
        ('{"linear:int5": {}}', "linear:int5"),
        ('{"linear:afpwx": {"bitwidth": 3}}', "MPS, not in this version"),
        ('{"linear:a8wxdq": {"bitwidth": 9}}', "1 to 8, not 9"),
        ('{"linear:a8wxdq": {"bitwidth": 4.0}}', "1 to 8, not 4.0"),
        ('{"linear:a8wxdq": {"bitwidth": true}}', "1 to 8, not True"),
        ('{"linear:a8wx": {"scale_dtype": "fp8"}}', "scale_dtype float16|int8, not 'fp8'"),
        ('{"linear:a8wx": {"scale_dtype": 8}}', "scale_dtype float16|int8, not 8"),
        ('{"linear:a8wxdq": {"scale_dtype": "int8"}}', 'has no option "scale_dtype"'),
        ('{"embedding:wx": {"bitwidth_from_row": {"40": 4}}}', "multiples of 16, from 16 on, not '40'"),
        ('{"embedding:wx": {"bitwidth_from_row": {"0": 4}}}', "not '0'"),
        ('{"embedding:wx": {"bitwidth_from_row": {"016": 4}}}', "not '016'"),
        ('{"embedding:wx": {"bitwidth_from_row": {"-16": 4}}}', "not '-16'"),
        ('{"embedding:wx": {"bitwidth_from_row": {"16": 9}}}', "1 to 8 from row 16 on, not 9"),
        ('{"embedding:wx": {"bitwidth_from_row": {"16": true}}}', "not True"),
        ('{"embedding:wx": {"bitwidth_from_row": 4}}', "as an object from rows to widths, not 4"),
        (
            json.dumps({"embedding:wx": {"bitwidth_from_row": {str(16 * i): 4 for i in range(1, 9)}}}),
            "at most 7 rows in bitwidth_from_row, not 8",
        ),
        ('{"linear:a8wx": {"bitwidth_from_row": {"16": 4}}}', 'put it under "layers", such as "output"'),
        ('{"linear:a8wxdq": {"bitwidth_from_row": {"16": 4}}}', 'no option "bitwidth_from_row"'),
        (
            '{"embedding:wx": {"bitwidth": 5, "bitwidth_from_row": {"16": 4, "32": 4}}}',
            "4 bits before row 32 already",
        ),
        ('{"embedding:wx": {"bitwidth": 5, "bitwidth_from_row": {"16": 5}}}', "before row 16 already"),
        ('{"linear:a8wxdq": {"groupsize": 40}}', "multiple of 16, not 40"),
        ('{"linear:a8wxdq": {"groupsize": -16}}', "-16"),
        ('{"linear:a8wxdq": {"groupsize": "32"}}', "'32'"),
        ('{"linear:a8wxdq": {"has_weight_zeros": 1}}', "true or false, not 1"),
        ('{"linear:a8wxdq": {"method": "hqq"}}', '"method"'),
        ('{"linear:a8wx": {"method": "gptk"}}', 'no "gptk"'),
        ('{"linear:a8wx": {"method": ["gptq"]}}', "['gptq']"),
        ('{"linear:a8wx": {"groupsize": 0}}', "groupwise"),
        ('{"linear:a8wx": {"groupsize": null}}', "None"),
        ('{"embedding": {}, "embedding:wx": {}}', "one embedding scheme"),
        ('{"linear:int4": {"groupsize": 33}}', "33"),
        ('{"linear:int4": {"groupsize": 0}}', "groupwise"),
        ('{"linear:int4": {"group": 32}}', '"group"'),
        ('{"linear:int4": 32}', "32"),
        ('{"embedding": {"bitwidth": 3}}', "3"),
        ('{"precision": {"dtype": "int8"}}', "int8"),
        ('{"executor": {"accelerator": "tpu"}}', "tpu"),
        ('{"linear:int4": {"groupsize": 32}, "linear:int8": {}}', "one linear scheme"),
    ],
)
def test_refusals_name_the_value(source, words):
    with pytest.raises(ValueError) as caught:
        parse_recipe(source)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def recipe_of(key: str) -> Recipe:
    return Recipe() if key == "none" else parse_recipe(json.dumps({key: {}}))


@pytest.mark.parametrize("entry", SUPPORT, ids=lambda entry: entry.key)
@pytest.mark.parametrize("delegate", DELEGATES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_support_is_the_tables(entry, delegate, backend):
    """Every cell of the table: accepted, or refused with the delegates of each backend that can."""
    # An embedding alone leaves linear layers that XNNPACK does not run.
    recipe = recipe_of(entry.key)
    if entry.key == "embedding" and delegate == XNNPACK:
        recipe = parse_recipe('{"embedding": {}, "linear:a8w4dq": {}}')
    if delegate in entry.delegates(backend):
        check_supported(recipe, (backend,), "float32", delegate)
        return
    with pytest.raises(ValueError) as caught:
        check_supported(recipe, (backend,), "float32", delegate)
    message = str(caught.value)
    assert backend in message and f"--delegate {delegate}" in message and "\n" not in message
    assert all(name in message for other in BACKENDS for name in entry.delegates(other))


def test_everything_runs_on_lowbit_in_any_dtype():
    for entry in SUPPORT:
        for dtype in ("float32", "bfloat16", "float16"):
            check_supported(recipe_of(entry.key), BACKENDS, dtype, LOWBIT)


def test_unquantized_layers_are_named_in_words():
    with pytest.raises(ValueError, match="unquantized linear layers do not run on executorch"):
        check_supported(parse_recipe('{"embedding": {}}'), (EXECUTORCH,), "float32", XNNPACK)


def test_other_delegates_have_narrower_limits():
    mobile = parse_recipe("mobile")
    check_supported(mobile, (EXECUTORCH,), "float32", XNNPACK)
    with pytest.raises(ValueError, match="computes in fp32, not bfloat16"):
        check_supported(mobile, (EXECUTORCH,), "bfloat16", XNNPACK)
    check_supported(mobile, (AOTI,), "bfloat16", STOCK)
    odd = parse_recipe('{"linear:int4": {"groupsize": 48}}')
    check_supported(odd, BACKENDS, "float32", LOWBIT)
    with pytest.raises(ValueError, match="multiple of 32, not 48"):
        check_supported(odd, (AOTI,), "float32", STOCK)


def test_recipe_wins_over_flags():
    assert resolve_dtype("fp16", parse_recipe("pi5"), (AOTI,)) == "float32"
    assert resolve_dtype("fp16", Recipe(), (AOTI,)) == "float16"
    assert resolve_dtype(None, Recipe(), (AOTI,)) == "float32"
    assert resolve_dtype("fast", Recipe(), (AOTI,)) == "bfloat16"
    assert resolve_dtype("fast", Recipe(), (EXECUTORCH, AOTI)) == "float32"
    assert resolve_device("cuda", parse_recipe("pi5")) == "cpu"
    with pytest.raises(ValueError, match="cuda"):
        resolve_device("cpu", parse_recipe("cuda"))


def test_slow_path_is_said():
    int4 = parse_recipe('{"linear:int4": {"groupsize": 32}}')
    assert "bf16" in slow_paths(int4, (AOTI,), "float32", STOCK)[0]
    assert not slow_paths(int4, (AOTI,), "bfloat16", STOCK)
    assert "unfused" in slow_paths(parse_recipe("mobile"), (AOTI,), "float32", STOCK)[0]
    assert not slow_paths(parse_recipe("mobile"), (EXECUTORCH,), "float32", XNNPACK)
    for name in ("mobile", *SHORT):
        assert not slow_paths(parse_recipe(name), BACKENDS, "float32", LOWBIT)


def test_a_scheme_that_keeps_nothing_is_refused():
    one_bit = '{"linear:a8wxdq": {"bitwidth": 1, "has_weight_zeros": %s}}'
    with pytest.raises(ValueError, match='nothing but zeros.* "linear:a8wx".*has_weight_zeros'):
        parse_recipe(one_bit % "false")
    assert parse_recipe(one_bit % "true").linear.bitwidth == 1


class TestCommandLine:
    def request(self, *arguments):
        return export.request(_parser().parse_args(["smollm2", "--output-pte", *arguments])).model.form

    def test_delegate_and_cache(self):
        assert self.request().delegate == LOWBIT and self.request().cache_dtype is None
        request = self.request("--delegate", "lowbit", "--cache-dtype", "int8")
        assert (request.delegate, request.cache_dtype) == (LOWBIT, "int8")
        assert self.request("--delegate", "stock", "--cache-dtype", "auto").delegate == STOCK
        assert self.request("--cache-dtype", "fp16").cache_dtype == "float16"

    def test_refusals(self):
        with pytest.raises(UsageError, match="int8 is for --delegate lowbit"):
            self.request("--delegate", "stock", "--cache-dtype", "int8")
        with pytest.raises(UsageError, match="tpu"):
            self.request("--delegate", "tpu")


def test_table_names_every_scheme():
    assert all(f"`{entry.key}`" in support_table() for entry in SUPPORT)


def test_readme_holds_the_table():
    readme = (ROOT / "README.md").read_text()
    assert support_table() in readme
