"""Recipes: what is accepted, what is refused and in which words."""

import json

import pytest

from exporter.recipe import (
    AOTI,
    EXECUTORCH,
    RECIPE_FOLDER,
    SUPPORT,
    EmbeddingScheme,
    LinearScheme,
    Recipe,
    check_supported,
    parse_recipe,
    resolve_device,
    resolve_dtype,
    slow_paths,
    support_table,
)


def test_text_file_and_name_agree(tmp_path):
    text = '{"embedding": {"bitwidth": 4, "groupsize": 32}, "linear:a8w4dq": {"groupsize": 256}}'
    (tmp_path / "r.json").write_text(text)
    expected = Recipe(LinearScheme("linear:a8w4dq", 256), EmbeddingScheme(4, 32))
    assert parse_recipe(text) == parse_recipe(str(tmp_path / "r.json")) == expected
    assert parse_recipe("mobile") == parse_recipe("mobile.json") == expected


@pytest.mark.parametrize("path", RECIPE_FOLDER.glob("*.json"), ids=lambda path: path.stem)
def test_ready_recipes_round_trip(path):
    recipe = parse_recipe(str(path))
    assert parse_recipe(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json()) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no such file"),
        ("nosuch", "mobile"),
        ("q4", "not in this version"),
        ('{"linear:int5": {}}', "linear:int5"),
        ('{"linear:a8wxdq": {"bitwidth": 3}}', "not in this version"),
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


def test_unsupported_backend_is_refused_with_those_that_can():
    recipe = parse_recipe('{"linear:int8": {"groupsize": 0}}')
    check_supported(recipe, (AOTI,), "float32")
    with pytest.raises(ValueError, match="it runs on aoti"):
        check_supported(recipe, (EXECUTORCH, AOTI), "float32")
    with pytest.raises(ValueError, match="fp32"):
        check_supported(parse_recipe("mobile"), (EXECUTORCH,), "bfloat16")


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
    recipe = parse_recipe('{"linear:int4": {"groupsize": 32}}')
    assert "bf16" in slow_paths(recipe, (AOTI,), "float32")[0]
    assert not slow_paths(recipe, (AOTI,), "bfloat16")


def test_table_names_every_scheme():
    assert all(f"`{entry.key}`" in support_table() for entry in SUPPORT)


def test_readme_holds_the_table():
    readme = (RECIPE_FOLDER.parent.parent / "README.md").read_text()
    assert support_table() in readme
