"""`scripts/make_table.py`: which rows there are, what is made again, what the files say."""

import json
from types import SimpleNamespace

import pytest

from exporter.recipe.recipe import check_supported, parse_recipe, resolve_dtype
from exporter.recipe.schemes import AOTI, EXECUTORCH
from scripts import make_table
from scripts.bench import scheme_table
from scripts.bench.command_line import UsageError
from scripts.bench.scheme_table import SETTINGS, Line, Setting, select

NAMES = {"pte": EXECUTORCH, "pt2": AOTI}
QUALITY = {
    "perplexity": 12.5, "perplexity_error": 0.25,
    "reference": {"kl_mean": 0.0123, "kl_error": 0.0004, "top1_agreement": 0.9},
}  # fmt: skip
SPEED = {
    "speed": 100.0, "deviation": 2.0, "achieved": 5e9, "share": 0.5, "memory_bytes": 64 << 20,
    "bandwidth": 1e10,
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_row_can_be_exported(setting):
    """The exporter accepts the recipe with the delegate on each of the row's backends."""
    options = dict(zip(setting.options[::2], setting.options[1::2], strict=True))
    recipe = parse_recipe(options.get("--quantize"))
    for backend in setting.backends:
        dtype = resolve_dtype(options.get("--dtype"), recipe, (NAMES[backend],))
        check_supported(recipe, (NAMES[backend],), dtype, setting.delegate)


def test_the_rows_have_names_of_their_own():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_rows_chosen_and_added():
    chosen = select(["q4", "int8"], ["mine=--quantize 'a b.json' --delegate stock --dtype bf16"])
    assert [setting.name for setting in chosen] == ["q4", "int8", "mine"]
    assert chosen[2].delegate == "stock"
    assert chosen[2].options == ("--quantize", "a b.json", "--dtype", "bf16")
    assert select(None, []) == SETTINGS
    with pytest.raises(ValueError, match="unknown scheme 'q9'"):
        select(["q9"], [])
    with pytest.raises(ValueError, match="NAME=EXPORT OPTIONS"):
        select(None, ["no options"])


def line(**changes) -> Line:
    fields = {
        "setting": Setting("q4", ("--quantize", "q4")), "backend": "pte", "size_bytes": 1000,
        "parameters": 2000, "quality": QUALITY, "prefill": SPEED,
        "decode": SPEED, "disturbed": False,
    }  # fmt: skip
    return Line(**{**fields, **changes})


def test_the_cells_of_a_row():
    cells = scheme_table.table([line()])[2].strip("| ").split(" | ")
    assert len(cells) == len(scheme_table.HEADINGS)
    assert cells == [
        "`q4`", ".pte", "lowbit", "0.0", "4.00", "12.500 ± 0.25", "0.01230 ± 0.00040", "90.00",
        "100.0 ± 2.0", "100.0 ± 2.0", "5.0", "50", "64",
    ]  # fmt: skip
    bare = scheme_table.table([line(quality=None, decode=None, disturbed=True)])[2]
    assert "| - | - | - |" in bare and "\\*" in bare


@pytest.fixture
def options(tmp_path):
    return make_table._parser().parse_args(
        ["smollm2", "--work", str(tmp_path / "work"), "--output", str(tmp_path / "t.md")]
    )


def test_an_artifact_is_made_once(options, monkeypatch):
    made = []

    def export(name, command):
        made.append(command)
        with open(command[-1], "wb") as file:
            file.write(b"artifact")

    monkeypatch.setattr(make_table.work, "call", export)
    q4, q3 = Setting("q4", ("--quantize", "q4")), Setting("q4", ("--quantize", "q3"))
    first = make_table._export(q4, "pte", options)
    assert make_table._export(q4, "pte", options) == first and len(made) == 1
    assert made[0][3:] == ["smollm2", "--quantize", "q4", "--output-pte", str(first)]
    make_table._export(q3, "pte", options)  # of the same name: another recipe
    assert len(made) == 2


def test_both_files_say_the_same(options, monkeypatch, capsys):
    """A row that fails is named with its reason, and the others are there."""
    def measured(setting, backend, options, head):
        if backend == "pt2":
            raise ValueError(f"{options.work}/x.pt2 needs libtorch")
        return line(setting=setting, backend=backend)

    monkeypatch.setattr(make_table, "_measured", measured)
    monkeypatch.setattr(make_table, "_parameters", lambda model: 2000)
    flags = ["--schemes", "q4,q3", "--work", str(options.work), "--output", str(options.output)]
    assert make_table.main(["smollm2", *flags]) == 1
    text = options.output.read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert "`q3` | .pte" in text and "- `q4.pt2`: x.pt2 needs libtorch" in text
    assert "Machine: " in text and "commit " in text and "torch 2" in text
    record = json.loads(options.output.with_suffix(".json").read_text())
    assert [row["scheme"] for row in record["rows"]] == ["q4", "q3"]
    assert record["rows"][0]["quality"] == QUALITY and len(record["failures"]) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backends", "so"], "unknown backend 'so'"),
        (["--schemes", "q9"], "unknown scheme 'q9'"),
        (["--output", "table.txt"], "name a .md file"),
    ],
)
def test_wrong_flags_are_said_before_any_work(flags, said):
    with pytest.raises(UsageError, match=said):
        make_table.main(["smollm2", *flags])


def test_speed_beside_other_programs_is_marked(options, monkeypatch, tmp_path):
    runs = []

    def run(command):
        runs.append(command)
        rows = json.dumps([{**SPEED, "test": "pp512"}, {**SPEED, "test": "tg128"}])
        return SimpleNamespace(stdout=rows, others_cores=1.0 if len(runs) < 3 else 0.0)

    monkeypatch.setattr(make_table.measure, "run", run)
    rows, disturbed = make_table._speed(tmp_path / "a.pte", options)
    assert len(runs) == 3 and not disturbed and set(rows) == {"pp512", "tg128"}
