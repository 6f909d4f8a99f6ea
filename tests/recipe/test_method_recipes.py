"""The words of a recipe's methods, formats for single layers, and how both are refused."""

import json

import pytest
import tiny
import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.cli import main as cli
from exporter.formats.packed_header import read_header
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.recipe.methods import Method, parse_method
from exporter.recipe.recipe import parse_recipe


class TestWords:
    def test_steps_are_in_the_order_they_are_made(self):
        assert parse_method("gptq+rotate+retie") == Method(("retie", "rotate"), "gptq")
        assert parse_method("awq") == Method(("awq",), "rtn")
        assert parse_method("hqq").is_plain() and not parse_method("rotate").is_plain()
        assert [parse_method(w).needs_calibration() for w in ("rotate+hqq", "awq", "gptq")] == [
            False, True, True
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("spin", 'there is no "spin"; join with + any of retie, rotate'),
            ("", 'there is no ""'),
            ("gptq+rtn", "rounds twice: keep one of gptq and rtn"),
            ("rotate+rotate", "a step twice"),
            ("awq+smoothquant", "scales twice"),
        ],
    )
    def test_refusals(self, text, words):
        with pytest.raises(ValueError) as caught:
            parse_method(text)
        assert f'method "{text}"' in str(caught.value) and words in str(caught.value)


LAYERED = {
    "linear:a8wx": {
        "bitwidth": 3, "groupsize": 32, "has_weight_zeros": True, "method": "hqq",
        "layers": {
            "layers.0.wqkv": {"bitwidth": 8, "groupsize": 64, "has_weight_zeros": False,
                              "method": "rtn"},
            "layers.*.down": {"bitwidth": 2, "groupsize": 16},
            "layers.1.*": {"bitwidth": 5, "groupsize": 32},
            "layers.0.gate_up": {"bitwidth": 3, "groupsize": 32, "scale_dtype": "int8"},
            "output": {"bitwidth": 6, "groupsize": 32},
        },
    },
    "embedding:wx": {"bitwidth": 4, "groupsize": 32},
}  # fmt: skip


class TestLayers:
    def test_round_trip(self):
        recipe = parse_recipe(json.dumps(LAYERED))
        assert parse_recipe(recipe.to_json()) == recipe
        again = json.loads(recipe.to_json())
        assert parse_recipe(json.dumps(again)).to_json() == recipe.to_json()

    def test_the_first_pattern_that_fits_counts(self):
        linear = parse_recipe(json.dumps(LAYERED)).linear
        found = {
            name: (s.bitwidth, s.groupsize, s.has_weight_zeros, s.method)
            for name in ("layers.0.wqkv", "layers.0.wo", "layers.1.down", "layers.1.wo", "output",
                         "layers.10.wo")
            for s in [linear.for_layer(name)]
        }  # fmt: skip
        assert found == {
            "layers.0.wqkv": (8, 64, False, "rtn"),
            "layers.0.wo": (3, 32, True, "hqq"),
            "layers.1.down": (2, 16, True, "hqq"),
            "layers.1.wo": (5, 32, True, "hqq"),
            "output": (6, 32, True, "hqq"),
            "layers.10.wo": (3, 32, True, "hqq"),
        }

    def test_packed_formats_are_what_was_asked(self, tmp_path):
        tiny.make_hf(tmp_path / "m", "smollm2")
        model = load_model(open_checkpoint(str(tmp_path / "m")), torch.float32, 48)
        options = PackOptions(parse_recipe(json.dumps(LAYERED)), torch.float32)
        said = []
        packed = LowbitTransformer(model, options, "float16", said.append).state_dict()
        headers = {}
        for name, value in packed.items():
            if value.dtype == torch.uint8:
                headers[name.removesuffix(".weight")] = read_header(value.numpy().tobytes(), name)
        found = {name: (h.bits, h.group_size, h.zeros) for name, h in headers.items()}
        assert found == {
            "layers.0.wqkv": (8, 64, "none"),
            "layers.0.wo": (3, 32, "integer"),
            "layers.0.gate_up": (3, 32, "integer"),
            "layers.0.down": (2, 16, "integer"),
            "layers.1.wqkv": (5, 32, "integer"),
            "layers.1.wo": (5, 32, "integer"),
            "layers.1.gate_up": (5, 32, "integer"),
            "layers.1.down": (2, 16, "integer"),
            "output": (6, 32, "integer"),
            "table": (4, 32, "none"),
        }
        of_int8 = [name for name, h in headers.items() if h.scale_dtype == "int8"]
        assert of_int8 == ["layers.0.gate_up"]
        assert any("different formats" in line for line in said)

    def test_a_layer_may_go_back_to_float16_scales(self):
        layers = {"output": {"bitwidth": 4, "groupsize": 32, "scale_dtype": "float16"}}
        parts = {"linear:a8wx": {"bitwidth": 4, "scale_dtype": "int8", "layers": layers}}
        recipe = parse_recipe(json.dumps(parts))
        assert recipe.linear.for_layer("output").scale_dtype == "float16"
        assert recipe.linear.for_layer("layers.0.wo").scale_dtype == "int8"
        assert parse_recipe(recipe.to_json()) == recipe

    def test_widths_by_row_are_a_layers(self):
        layers = {"output": {"bitwidth": 6, "groupsize": 32, "bitwidth_from_row": {"160": 4, "32": 5}}}
        recipe = parse_recipe(json.dumps({"linear:a8wx": {"bitwidth": 4, "layers": layers}}))
        assert recipe.linear.for_layer("output").bitwidth_from_row == ((32, 5), (160, 4))
        assert recipe.linear.for_layer("layers.0.wo").bitwidth_from_row == ()
        assert parse_recipe(recipe.to_json()) == recipe

    @pytest.mark.parametrize(
        ("layers", "words"),
        [
            ({"output": {"bits": 4}}, 'layers, output" has no option "bits"; it takes bitwidth'),
            ({"output": {"method": "retie+gptq"}}, "method rtn|hqq|gptq, not 'retie+gptq'"),
            ({"output": {"method": 4}}, "method rtn|hqq|gptq, not 4"),
            ({"output": {"layers": {}}}, 'no option "layers"'),
            ({"output": {"bitwidth": 9}}, "1 to 8, not 9"),
            ({"output": {"groupsize": 40}}, "multiple of 16, not 40"),
            ({"output": 4}, "layers as an object"),
            (["output"], "layers as an object"),
        ],
    )
    def test_refusals(self, layers, words):
        with pytest.raises(ValueError) as caught:
            parse_recipe(json.dumps({"linear:a8wx": {"layers": layers}}))
        assert words in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="layers"):
            parse_recipe(json.dumps({"linear:int8": {"layers": layers}}))


class TestCommandLine:
    """Exit status and the one line of errors."""

    def failing(self, capsys, folder, recipe: dict, *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        words = [folder, "--output-pte", folder.parent / "m.pte", "--quantize", json.dumps(recipe)]
        status = cli.main([str(word) for word in (*words, *arguments)])
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(errors) == 1 and not (folder.parent / "m.pte").exists()
        assert not list(folder.parent.glob(".calibration*"))
        return status, errors[0]

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        tiny.make_hf(tmp_path / "m", "smollm2")
        monkeypatch.chdir(tmp_path)  # where unfinished work is kept
        return tmp_path / "m"

    def test_words(self, folder, tmp_path, capsys):
        def linear(method: str) -> dict:
            return {"linear:a8wx": {"bitwidth": 4, "method": method}}

        status, line = self.failing(capsys, folder, linear("gptk"))
        assert status == 2 and 'no "gptk"' in line and "gptq" in line
        status, line = self.failing(capsys, folder, linear("gptq+hqq"))
        assert status == 2 and "rounds twice" in line and "keep one" in line
        table = {"embedding:wx": {"bitwidth": 4, "method": "gptq"}}
        status, line = self.failing(capsys, folder, table)
        assert status == 2 and '"embedding:wx" takes method rtn or hqq, not "gptq"' in line
        text = tmp_path / "t.txt"
        for recipe in (linear("rotate+hqq"), table | {"embedding:wx": {}}):
            status, line = self.failing(capsys, folder, recipe, "--calibrate", text)
            assert status == 2 and "t.txt" in line and "leave it out" in line
            status, line = self.failing(capsys, folder, recipe, "--calibration-tokens", 4096)
            assert status == 2 and "--calibration-tokens 4096" in line and "leave it out" in line

    def test_texts(self, folder, tmp_path, capsys):
        recipe = {"linear:a8wx": {"bitwidth": 4, "method": "gptq"}}
        empty, latin, short = (tmp_path / f"{name}.txt" for name in ("empty", "latin", "short"))
        empty.write_text("")
        latin.write_bytes("Größe ".encode("latin-1") * 500)
        short.write_text("Once upon a time")
        for path, words in (
            (tmp_path / "none.txt", ("no such file", "give a UTF-8 text file")),
            (empty, ("is empty", "give a file with text")),
            (latin, ("offset 2", "not UTF-8", "convert")),
            (short, ("tokens, less than a window", "give a longer one")),
            (tmp_path, ("folder", "give a text file")),
        ):
            status, line = self.failing(capsys, folder, recipe, "--calibrate", path)
            assert status == 1 and f"--calibrate {path}: " in line, line
            assert all(word in line for word in words), line

    def test_what_cannot_be_tied(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        tiny.make_hf(tmp_path / "m", "llama3")
        recipe = {"linear:a8wx": {"bitwidth": 4, "method": "retie"}}
        status, line = self.failing(capsys, tmp_path / "m", recipe)
        assert status == 1 and '"retie"' in line and "leave" in line
