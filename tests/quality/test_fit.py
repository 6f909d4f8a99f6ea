"""`--fit`: budgets, the choice of formats, and a fitted export of a tiny model."""

import json
import random
import re

import pytest
import tiny
import torch

from exporter.artifact.reader import read_artifact
from exporter.cli import main as cli
from exporter.lowbit.ops import load
from exporter.lowbit.pack import pack_integers
from exporter.lowbit.weights import can_share, quantize_linear
from exporter.quality.budget import parse_budget
from exporter.quality.choices import FORMATS, Choice, Unit, packed_bytes, scheme_of
from exporter.quality.fit import fit, fitted_recipe, hull
from exporter.recipe.recipe import parse_recipe
from exporter.recipe.schemes import LinearScheme

# A context of 256: more than fifty windows, so that three are held out.
TEXT = "".join(f"The {i}th of {i % 7} hares ran {i * i % 97} times around the old stone wall. "
               for i in range(900))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "weights", "size", "kl"),
    [("120MB", 10, 120e6, None), ("1.5 GiB", 10, 1.5 * 2**30, None), ("4.0bpw", 1000, 500, None),
     ("kl<0.01", 10, None, 0.01), ("kl < 1e-3", 10, None, 1e-3)],
)  # fmt: skip
def test_budgets(text, weights, size, kl):
    budget = parse_budget(text)
    assert (budget.most_bytes(weights), budget.kl) == (size, kl)


@pytest.mark.parametrize("text", ["", "120", "-3MB", "0bpw", "4bits", "kl>0.1", "kl<0", "1.2.3MB", "nanMB"])
def test_no_budgets(text):
    with pytest.raises(ValueError, match=re.escape(f"--fit {text!r} is no budget")):
        parse_budget(text)


def unit(name, *choices):
    return Unit(name, tuple(Choice(bits, 32, "rtn", size, kl) for bits, size, kl in choices))


def test_the_best_rounding_of_each_matrix_is_taken_and_written_down():
    base = parse_recipe('{"linear:a8wx": {"method": "retie+gptq"}}')
    units = [
        Unit("layers.0.wo", (Choice(4, 32, "gptq", 10, 0.1), Choice(4, 32, "hqq", 10, 0.2))),
        Unit("layers.0.down", (Choice(3, 64, "gptq", 10, 0.1),)),
        Unit("layers.1.wo", (Choice(4, 32, "gptq", 10, 0.1),)),
        Unit("output", (Choice(4, 32, "gptq", 10, 0.2),
                        Choice(5, 32, "hqq", 10, 0.1, ((16, 4), (48, 3))))),
    ]  # fmt: skip
    recipe = fitted_recipe(fit(units, 40, None), base, shared=True)
    assert [name for name, _ in recipe.linear.layers] == ["layers.0.down", "output"]
    assert recipe.linear.for_layer("layers.0.down").bitwidth == 3
    assert recipe.linear.for_layer("layers.0.wo").method == "retie+gptq"
    assert recipe.linear.for_layer("output").method == "retie+hqq"
    assert recipe.embedding.method == "hqq"
    assert recipe.embedding.bitwidth_from_row == ((16, 4), (48, 3))
    assert can_share(recipe.linear, recipe.embedding, 64)
    assert parse_recipe(recipe.to_json()) == recipe


UNITS = [
    unit("a", (2, 10, 1.0), (3, 15, 0.9), (4, 20, 0.2), (8, 40, 0.0)),
    unit("b", (2, 10, 0.3), (4, 20, 0.1), (8, 40, 0.09)),
]


def test_hull_drops_what_a_mixture_beats():
    assert [choice.bits for choice in hull(UNITS[0].choices)] == [2, 4, 8]
    assert [choice.bits for choice in hull(UNITS[1].choices)] == [2, 4, 8]


@pytest.mark.parametrize(
    ("most", "bits", "kl"),
    [(20, [2, 2], 1.3), (29, [3, 2], 1.2), (30, [4, 2], 0.5), (40, [4, 4], 0.3), (60, [8, 4], 0.1),
     (1000, [8, 8], 0.09)],
)  # fmt: skip
def test_least_kl_under_a_size(most, bits, kl):
    found = fit(UNITS, most, None)
    assert [found.chosen[name].bits for name in "ab"] == bits
    assert found.bytes <= most and found.kl == pytest.approx(kl)
    assert found.bytes == sum(choice.bytes for choice in found.chosen.values())


def test_a_size_is_used_up():
    generator = random.Random(3)
    for _ in range(50):
        units = [
            unit(f"u{i}", *((bits, generator.randint(1, 9) * bits, generator.random() / bits)
                            for bits in range(2, 9)))
            for i in range(5)
        ]  # fmt: skip
        most = sum(max(choice.bytes for choice in u.choices) for u in units) * 0.6
        found = fit(units, most, None)
        assert found.bytes == sum(choice.bytes for choice in found.chosen.values()) <= most
        assert found.kl == pytest.approx(sum(choice.kl for choice in found.chosen.values()))
        for u in units:  # no other choice of one of them would fit and lose less
            now = found.chosen[u.name]
            assert not any(c.kl < now.kl and found.bytes + c.bytes - now.bytes <= most
                           for c in u.choices)  # fmt: skip


def test_least_size_under_a_kl():
    found = fit(UNITS, None, 0.35)
    assert (found.bytes, found.kl) == (40, pytest.approx(0.3))
    with pytest.raises(ValueError, match="smallest formats"):
        fit(UNITS, 19, None)
    with pytest.raises(ValueError, match="largest formats"):
        fit(UNITS, None, 0.01)


@pytest.mark.parametrize(("bits", "size"), FORMATS)
def test_sizes_are_what_packing_makes(bits, size):
    load()
    scheme = scheme_of(LinearScheme("linear:a8wx", 32, 4), Choice(bits, size, "rtn", 0, 0.0))
    packed = pack_integers(quantize_linear(torch.randn(40, 96), scheme))
    assert packed.nbytes == packed_bytes(40, 96, bits, size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    tiny.make_hf(folder / "m", "smollm2")
    (folder / "t.txt").write_text(TEXT)
    return folder


def export(folder, *arguments):
    words = [str(folder / "m"), "--output-pte", str(folder / "m.pte"), "--calibrate",
             str(folder / "t.txt"), *arguments]  # fmt: skip
    return cli.main(words)


def has_format(weight, scheme) -> bool:
    parts = weight.packed.parts
    widths = [(part.first_row, part.bits) for part in parts]
    groups = {part.group_size for part in parts}
    return widths == [(0, scheme.bitwidth), *scheme.bitwidth_from_row] and groups == {scheme.groupsize}


def test_a_divergence_is_kept_and_the_recipe_makes_the_same_file(folder, capsys):
    assert export(folder, "--fit", "kl<0.05") == 0
    content = json.loads((folder / "m.recipe.json").read_text())
    report = content["fit"]
    assert report["measured_kl"] <= 0.05 and report["predicted_kl"] > 0
    first = (folder / "m.pte").read_bytes()
    assert report["file_bytes"] == {"m.pte": len(first)}
    assert len(first) <= report["predicted_bytes"] < 2 * len(first)
    recipe = parse_recipe(str(folder / "m.recipe.json"))
    artifact = read_artifact(folder / "m.pte")
    kinds = ("wqkv", "wo", "gate_up", "down")
    names = [f"layers.{i}.{name}" for i in range(2) for name in kinds] + ["output"]
    for name in names:
        assert has_format(artifact.weight(name), recipe.linear.for_layer(name)), name
    assert artifact.weight("table") is artifact.weight("output")
    assert export(folder, "--quantize", str(folder / "m.recipe.json")) == 0
    again = read_artifact(folder / "m.pte")
    for name in ("layers.0.wqkv", "layers.1.down", "output"):
        assert bytes(again.weight(name).data) == bytes(artifact.weight(name).data), name
    assert not list(folder.glob(".calibration-*"))


def test_plain_rounding_fits_too_and_shares_the_table(folder):
    hqq = '{"linear:a8wx": {"bitwidth": 4, "method": "hqq"}}'
    assert export(folder, "--fit", "kl<0.2", "--quantize", hqq) == 0
    artifact = read_artifact(folder / "m.pte")
    assert artifact.weight("table") is artifact.weight("output")


def test_an_untied_model_has_two_tables_with_formats_of_their_own(tmp_path):
    tiny.make_hf(tmp_path / "m", "llama2")
    (tmp_path / "t.txt").write_text(TEXT)
    assert export(tmp_path, "--fit", "kl<0.1") == 0
    artifact = read_artifact(tmp_path / "m.pte")
    recipe = parse_recipe(str(tmp_path / "m.recipe.json"))
    for name, scheme in (("table", recipe.embedding), ("output", recipe.linear.for_layer("output"))):
        assert has_format(artifact.weight(name), scheme)
    assert recipe.embedding.method in ("rtn", "hqq")


@pytest.mark.parametrize(
    ("flag", "name", "kilobytes"),
    [("--output-pte", "b.pte", 130), ("--output-aoti-package", "b.pt2", 600)],
)
def test_a_size_is_kept_by_every_kind_of_file(flag, name, kilobytes, folder, capsys):
    words = [str(folder / "m"), flag, str(folder / name), "--calibrate", str(folder / "t.txt")]
    assert cli.main([*words, "--fit", f"{kilobytes}kB"]) == 0
    assert (folder / name).stat().st_size <= 1000 * kilobytes
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said", "reads_text"),
    [
        (("--fit", "5kB"), "give a larger one", False),  # that follows from the shapes alone
        (("--fit", "kl<1e-9"), "ask for more", True),
    ],
)
def test_impossible_budgets(folder, capsys, arguments, said, reads_text):
    assert export(folder, *arguments) == 1
    lines = capsys.readouterr().err.strip()
    error = lines.splitlines()[-1]
    assert error.startswith("error: --fit") and said in error
    assert ("calibration text" in lines) == reads_text


def test_refusals(folder, capsys):
    text = folder / "short.txt"
    text.write_text(TEXT[:3000])
    words = [str(folder / "m"), "--output-pte", str(folder / "x.pte"), "--fit", "kl<0.1"]
    assert cli.main([*words, "--calibrate", str(text)]) == 1
    assert "give a text of 13,056 tokens or more, and --calibration-tokens 12288" in capsys.readouterr().err
    assert cli.main([*words, "--delegate", "stock"]) == 2
    assert "--fit is for --delegate lowbit" in capsys.readouterr().err
    layers = '{"linear:a8wx": {"layers": {"output": {"bitwidth": 8}}}}'
    assert cli.main([*words, "--quantize", layers]) == 2
    assert 'leave "layers" out' in capsys.readouterr().err
    rows = '{"embedding:wx": {"bitwidth": 8, "bitwidth_from_row": {"32": 4}}}'
    assert cli.main([*words, "--quantize", rows]) == 2
    assert 'leave "bitwidth_from_row" out' in capsys.readouterr().err
    assert cli.main(["eval", str(folder / "m"), "--text", str(text), "--fit", "4bpw"]) == 1
    assert "is for an export" in capsys.readouterr().err
