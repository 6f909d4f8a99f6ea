"""`bench`: its plan, its process, its figures and its output."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.artifact.contents import PTE, Artifact
from exporter.bench import bench
from exporter.bench import output as bench_output
from exporter.bench import worker as bench_worker
from exporter.bench.bench import Measured, Trial
from exporter.bench.worker import DECODE, PREFILL
from exporter.cli import main as cli
from exporter.cli.command_line import EXIT_FAILURE, EXIT_USAGE

METADATA = {
    "model_name": "m", "quantization": "{}", "dtype": "float32", "backend": "executorch",
    "delegate": "lowbit", "context_length": "50", "longest_context": "100", "n_layers": "3",
    "cache_dtype": "float16", "max_segments": "64", "model_digest": "",
    "state": json.dumps({"layers": [{"kv_heads": 2, "head_dim": 8, "rope": -1}] * 3, "frequencies": []}),
}  # fmt: skip
# What exporter.bench.worker says, of a machine that takes 1 ms a token.
WORKER = """
import json, sys
order = json.loads(sys.argv[1])
assert order["context_length"] == 50 and order["cache_dtype"] is None
print(json.dumps({"threads": order["threads"] or 2, "isa": "scalar"}))
for kind, count, depth in order["tests"]:
    for i in range(order["repetitions"]):
        print(json.dumps({"progress": i + 1}))
    print(json.dumps({"seconds": [count / 1000 * (1 + i) for i in range(order["repetitions"])]}))
print(json.dumps({"memory": 5 << 20, "before": 1 << 20}))
print(json.dumps({"bandwidth": 1e9}))
"""


def tensor(size: int, *names: str):
    return SimpleNamespace(
        data=bytes(size),
        names=names,
        packed=SimpleNamespace(rows=10, columns=size),
        part=lambda: "embedding" if "table" in names else "linear weights",
    )


def artifact(*tensors, **metadata) -> Artifact:
    return Artifact(
        path=Path("a.pte"), kind=PTE, size=3 << 20, metadata={**METADATA, **metadata}, tokenizer=b"",
        sizes={}, weights=tensors, operators={}, delegates={}, targets=(), token_scales=False,
        cache_dtype="float16", planned_bytes=None, unknown=(),
    )  # fmt: skip


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Two artifacts of 1000 bytes of layers and a tied table of 500, read without a file."""
    monkeypatch.setattr(
        bench, "read_artifact",
        lambda path: artifact(tensor(1000, "layers.0.wo"), tensor(500, "table", "output")),
    )  # fmt: skip
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return [tmp_path / "a.pte", tmp_path / "b.pt2"], (sys.executable, str(script))


def test_the_plan_has_all_combinations():
    names = [test.name for test in bench.plan([512, 0], [16, 128], [0, 1024])]
    assert names == ["pp512", "tg16", "tg128", "pp512 @ d1024", "tg16 @ d1024", "tg128 @ d1024"]
    assert bench.plan([0], [0], [0]) == []


def test_rows_of_every_artifact_and_number_of_threads(found):
    paths, worker = found
    lines = []
    tests = bench.plan([10], [20], [0])
    rows = list(bench.bench(paths, tests, [1, 2], 2, lines.append, worker))
    assert [(row.file, row.threads, row.test) for row in rows] == [
        (name, threads, test)
        for name in ("a.pte", "b.pt2") for threads in (1, 2) for test in ("pp10", "tg20")
    ]  # fmt: skip
    assert rows[0].samples == pytest.approx((1000, 500))
    assert rows[0].speed == pytest.approx(750)
    assert rows[0].deviation == pytest.approx(353.553, abs=1e-3)
    assert rows[0].memory_bytes == 5 << 20 and rows[0].isa == "scalar"
    assert len(lines) == 2 * 4 * 2 and "a.pte: test 2 of 2, tg20: 1 of 2" in lines


def test_bytes_a_token(found):
    """The layers and the tied table once, and two caches of three layers, of 2 heads of 8 values, padded to
    16, of 2 bytes; half of the generated ones are there in the mean."""
    whole = bench.read_artifact("x")
    position = 2 * 3 * 2 * 16 * 2
    assert bench.bytes_a_token(whole, Trial(DECODE, 20, 40)) == pytest.approx(1500 + 50 * position)
    assert bench.bytes_a_token(whole, Trial(PREFILL, 20, 40)) is None
    assert bench.bytes_a_token(artifact(), Trial(DECODE, 20, 40)) is None
    untied = artifact(tensor(1000, "output"), tensor(500, "table"))
    assert untied.read_bytes() == 1000 and artifact().read_bytes() is None
    experts = artifact(
        tensor(1000, "output"), tensor(64, "layers.0.gate_up"), tensor(10, "layers.1.router"),
        tensor(800, "layers.1.gate_up"), tensor(400, "layers.1.down"), n_experts="8", n_experts_chosen="2",
    )  # fmt: skip
    assert experts.read_bytes() == 1000 + 64 + 10 + 200 + 100
    stock = artifact(tensor(1000, "output"), delegate="stock", n_kv_heads="2", head_dim="8")
    assert bench.bytes_a_token(stock, Trial(DECODE, 20, 40)) == 1000 + 50 * 2 * 3 * 2 * 8 * 2
    unknown = artifact(tensor(1000, "output"), delegate="stock")
    assert bench.bytes_a_token(unknown, Trial(DECODE, 20, 40)) == 1000


def test_the_context_is_what_the_tests_need():
    tests = bench.plan([10], [20], [0, 60])
    assert bench.context_of(artifact(), tests) == 80
    assert bench.context_of(artifact(), tests[:2]) == 50
    stock = artifact(delegate="stock")
    del stock.metadata["longest_context"]
    assert bench.context_of(stock, tests) is None


def test_names_of_schemes():
    def name(quantization: str, **more: str) -> str:
        return bench.scheme_name({**METADATA, "quantization": quantization, **more})

    assert name("{}") == "float32"
    by_row = json.dumps({"embedding:wx": {"bitwidth": 7, "bitwidth_from_row": {"16": 4, "64": 6}}})
    assert name(by_row) == "embedding:wx 7 to 4 bits g32"
    from exporter.recipe.recipe import parse_recipe

    assert name(parse_recipe("q3").to_json()) == "q3"
    assert name('{"linear:a8w4dq": {"groupsize": 64}}') == "linear:a8w4dq 4 bits g64"
    assert "embedding 4 bits channelwise" in name(
        '{"linear:int8": {"groupsize": 0}, "embedding": {"bitwidth": 4}}'
    )
    assert name('{"linear:future": {}}') == '{"linear:future": {}}'
    assert bench.backend_name({**METADATA, "delegate": "stock"}) == "executorch, stock"


def rows_of(found) -> list:
    paths, worker = found
    return list(bench.bench(paths[:1], bench.plan([10], [20], [0]), [2], 3, print, worker))


def test_output(found):
    rows = rows_of(found)
    table = bench_output.markdown(rows).splitlines()
    cells = [cell.strip() for cell in table[3].strip("|").split("|")]
    assert len(cells) == len(bench_output.HEADINGS) and cells[6] == "tg20"
    assert cells[0] == "m" and cells[3] == "3.0" and cells[8] == "5"
    records = json.loads(bench_output.as_json(rows))
    assert records[1]["achieved"] == pytest.approx(rows[1].bytes_a_token * rows[1].speed)
    assert records[1]["share"] == pytest.approx(records[1]["achieved"] / 1e9)
    assert records[0]["share"] is None
    parsed = list(csv.DictReader(io.StringIO(bench_output.as_csv(rows))))
    assert float(parsed[0]["speed"]) == pytest.approx(rows[0].speed)


def test_a_process_that_fails_is_one_line(found, tmp_path):
    paths, _ = found
    script = tmp_path / "bad.py"
    for text, said in (
        ("print('{\"error\": \"it is broken\"}'); raise SystemExit(1)", "a.pte: it is broken"),
        ("import os; os._exit(9)", "ended early, with status 9"),
    ):
        script.write_text(text)
        with pytest.raises(ValueError, match=said):
            bench.measure(paths[0], [], bench.Loading(1), 1, print, (sys.executable, str(script)))


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (("-p", "0", "-n", "0"), EXIT_USAGE, "leave no test"),
        (("-p", "many"), EXIT_USAGE, "'many' is not a whole number"),
        (("-t", "0"), EXIT_USAGE, "whole number of at least 1"),
        (("-d", "90"), EXIT_FAILURE, "needs 602 positions and the context of a.pte has 100"),
    ],
)
def test_errors_are_one_line(found, capsys, flags, status, said):
    assert cli.main(["bench", "a.pte", *flags]) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_missing_and_damaged_files(tmp_path, capsys):
    bad = tmp_path / "bad.pte"
    bad.write_bytes(b"no artifact" * 20)
    for path in (tmp_path / "none.pte", bad):
        assert cli.main(["bench", str(path)]) == EXIT_FAILURE
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and path.name in lines[0]


def test_the_worker_names_what_is_wrong(tmp_path):
    """In its process, in one line of JSON, without torch."""
    order = {"path": str(tmp_path / "none.pte"), "tests": [], "repetitions": 1, **asdict(bench.Loading(1))}
    program = (
        "import sys; from exporter.bench.worker import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(order)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "none.pte" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; end other programs, use a smaller -d"),
        (MemoryError("std::bad_alloc"), "out of memory; end other programs, use a smaller -d"),
        (ImportError("no libx.so\nmore"), "ImportError: no libx.so"),
        (ValueError("m.pte is broken"), "m.pte is broken"),
    ],
)
def test_every_error_of_the_worker_is_one_line(monkeypatch, capsys, error, said):
    def failing(order):
        raise error

    monkeypatch.setattr(bench_worker, "work", failing)
    assert bench_worker.main(["{}"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["error"].startswith(said) and "more" not in line


def test_share_is_of_the_bandwidth_measured_beside(found):
    measured = Measured(2, "scalar", ((1.0,),), 1, 3000.0)
    row = bench.row(found[0][0], bench.read_artifact("x"), Trial(DECODE, 10, 0), (1.0,), measured)
    assert row.speed == 10 and row.share == pytest.approx(row.bytes_a_token * 10 / 3000)
