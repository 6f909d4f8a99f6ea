"""The scripts that make checkpoints and measure."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from native import ROOT

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.tokenizer.tokenizer import read_tokenizer
from scripts import bench_families, bench_peers, random_checkpoint
from scripts.bench import measure, work
from scripts.bench.command_line import exit_status
from scripts.bench.contenders import select
from scripts.bench.report import Results, Sample, asked_table, circumstances

LENGTH = 100  # longer than the original context of the shape `tiny`


def logits(path: Path) -> torch.Tensor:
    checkpoint = open_checkpoint(str(path))
    config = checkpoint.config
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (1, LENGTH), generator=generator)
    model = load_model(checkpoint, torch.float32, LENGTH)
    with torch.no_grad():
        return model.new_session().read(tokens, 0, torch.arange(LENGTH))


def make(folder: Path, *more: object) -> tuple[Path, Path]:
    out, file = folder / "tiny", folder / "tiny.gguf"
    arguments = ["--like", "tiny", "--out", out, "--gguf", file, *more]
    assert exit_status(random_checkpoint.main, [str(word) for word in arguments]) == 0
    return out, file


@pytest.mark.parametrize("dtype", random_checkpoint.DTYPES)
def test_folder_and_gguf_are_the_same_model(tmp_path: Path, dtype: str):
    out, file = make(tmp_path, "--dtype", dtype)
    expected = logits(out)
    assert expected.isfinite().all() and expected.std() > 0.1
    assert torch.equal(logits(file), expected)


def test_another_seed_is_another_model(tmp_path: Path):
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
    first, second = (logits(make(tmp_path / seed, "--seed", seed)[0]) for seed in ("1", "2"))
    assert (first - second).abs().max() > 0.1


def test_tokenizer_fills_the_vocabulary(tmp_path: Path):
    out, file = make(tmp_path)
    ours, theirs = read_tokenizer(out / "tokenizer.json"), read_tokenizer(file)
    assert ours.n_pieces == theirs.n_pieces == open_checkpoint(str(out)).config.vocab_size
    text = "Once upon a time, Größe 123"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_shards_are_read(tmp_path: Path, monkeypatch):
    from scripts.bench import random_folder

    whole = make(tmp_path)[0]
    monkeypatch.setattr(random_folder, "BYTES_A_SHARD", 1 << 16)
    (tmp_path / "shards").mkdir()
    sharded = make(tmp_path / "shards")[0]
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert torch.equal(logits(sharded), logits(whole))


@pytest.mark.parametrize(
    ("script", "arguments", "names", "status"),
    [
        ("random_checkpoint", ["--like", "gpt2", "--out", "x"], "gpt2", 2),
        ("random_checkpoint", ["--like", "tiny"], "--out", 2),
        ("random_checkpoint", ["--like", "tiny", "--out", "x", "--dtype", "int8"], "int8", 2),
        ("random_checkpoint", ["--like", "tiny", "--out", "x", "--gguf", "y.bin"], "y.bin", 2),
        ("random_checkpoint", ["--like", "tiny", "--out", "nowhere/x"], "nowhere", 1),
        ("random_checkpoint", ["--like", "tiny", "--out", "."], "exists", 1),
        ("bench_peers", ["--models", "gpt2"], "gpt2", 2),
        ("bench_peers", ["--contenders", "q9.pte"], "q9.pte", 2),
        ("bench_peers", ["--rounds", "0"], "'0'", 2),
        ("bench_peers", ["--threads", "two"], "'two'", 2),
        ("bench_peers", ["--out", "nowhere/peers.md"], "nowhere", 1),
        ("bench_peers", ["--frobnicate"], "--frobnicate", 2),
        ("bench_families", ["--families", "gpt2"], "gpt2", 2),
        ("bench_families", ["--families", "llama"], "llama", 2),
        ("bench_families", ["--shape", "7b"], "7b", 2),
        ("bench_families", ["--out", "nowhere/families.md"], "nowhere", 1),
    ],
)
def test_refusals_are_one_line(script, arguments, names, status, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scripts = {"random_checkpoint": random_checkpoint, "bench_peers": bench_peers,
               "bench_families": bench_families}  # fmt: skip
    main = scripts[script].main
    assert exit_status(main, arguments) == status
    out, errors = capsys.readouterr()
    assert not out and len(errors.splitlines()) == 1
    assert errors.startswith("error: ") and names in errors
    assert not any(tmp_path.iterdir())


FAKES = {
    "et_run": """
        steps = int(sys.argv[sys.argv.index("-n") + 1])
        if "-i" in sys.argv:  # a prompt of text is printed before anything is computed
            sys.exit("et_run: its first byte is not a token")
        rate = 30.0 if "xnnpack" in sys.argv[1] else 260.0
        print("Paris" * steps)
        print(json.dumps({"prompt_tokens": 5, "generated_tokens": steps, "isa": "avx512_vnni",
            "prefill_tokens_per_second": 900, "decode_tokens_per_second": rate}), file=sys.stderr)
    """,
    "aoti_run": """
        sys.exit("aoti_run: /secret/folder/q4.pt2: truncated; export it again")
    """,
    "llama-bench": """
        print(json.dumps([{"avg_ts": 200.0 if "128" in sys.argv else 1000.0}]))
    """,
    "llama-completion": """
        print("Paris")
    """,
    "kernel_bench": """
        print(json.dumps({"read_gb_per_s": 50.0, "peak_gmac_per_s": 400.0}))
        if "--bandwidth" not in sys.argv:
            for rate in (200, 300):
                print(json.dumps({"shape": "smollm2.x", "rows": 6, "columns": 2,
                    "prefill_gmac_per_s": rate}))
    """,
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch) -> Path:
    """Programs that answer at once in place of the runners and llama.cpp, and a work folder."""
    for name, body in FAKES.items():
        script = tmp_path / name
        code = textwrap.dedent(body)
        script.write_text(f"#!{sys.executable}\nimport json, sys\n{code}", encoding="utf-8")
        script.chmod(0o755)
    runners = {"et": tmp_path / "et_run", "aoti": tmp_path / "aoti_run"}
    monkeypatch.setattr(measure, "RUNNERS", runners)
    monkeypatch.setattr(measure, "LLAMA_BIN", tmp_path)
    monkeypatch.setattr(measure, "KERNEL_BENCH", tmp_path / "kernel_bench")
    monkeypatch.setattr(measure, "TELLING_SECONDS", 1e9)  # whatever runs beside the tests
    monkeypatch.setattr(work, "build_llama_cpp", lambda: None)
    folder = tmp_path / "work"
    folder.mkdir()
    for contender in select(["smollm2"], None):
        with (folder / contender.artifact.file).open("wb") as file:
            file.truncate(80_000_000)
        record = {"options": contender.artifact.options, "sources": "older", "seconds": 12.5}
        (folder / f"{contender.artifact.file}.json").write_text(json.dumps(record))
    return folder


def test_bench_peers_says_what_is_reached(fakes: Path, capsys):
    """From the programs' words to the table: ratios, verdicts, and what could not be measured."""
    names = "q4.pte,q4.pt2,xnnpack.pte,llama-q4_0"
    out = fakes / "peers.md"
    arguments = ["--models", "smollm2", "--contenders", names, "--work", fakes, "--out", out]
    arguments += ["--reuse", "--rounds", 2]
    assert exit_status(bench_peers.main, [str(word) for word in arguments]) == 1
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    asked = "≥ 1.4 × llama.cpp Q4_0"
    for start, end in (
        ("decode, `q4` | SmolLM2 | `q4.pte`", "≥ 1.3 × llama.cpp Q4_0 | 260.0 tok/s | 1.3 | pass"),
        ("decode, `q4` | SmolLM2 | `q4.pte`", "≥ 8 × stock XNNPACK | 260.0 tok/s | 8.67 | pass"),
        ("prefill 512, `q4` | SmolLM2 | `q4.pte`", f"{asked} | 900.0 tok/s | 0.9 | **miss**"),
        ("decode, `q4` | SmolLM2 | `q4.pt2`", "≥ 1.3 × llama.cpp Q4_0 | - | - | not measured"),
        ("export, `q4` | SmolLM2 | `q4.pte`", "≤ 20 s | 12.5 s | 12.5 | pass"),
        ("file, `q4` | SmolLM2 | `q4.pte`", "≤ 90 MB | 80.0 MB | 80 | pass"),
    ):
        assert f"| {start} | {end} |" in text.splitlines()
    failed = "aoti_run ended with status 1: aoti_run: q4.pt2: truncated; export it again"
    assert f"- SmolLM2 q4.pt2: {failed}" in text.splitlines()
    assert "50.0 GB/s" in text and "bf16.pte" not in text
    assert "| 20.8 |" in text  # 80 MB, 260 times a second
    assert "| 60 |" in text  # 24 products at 200 and 300: 0.1 s; at 400: 0.06 s
    assert "/secret" not in text and str(fakes) not in text


def test_no_verdict_beside_other_work():
    samples = (Sample("smollm2", "q4.pte", "decode", 94.5),
               Sample("smollm2", "llama-q4_0", "decode", 6.2),
               Sample("smollm2", "q4.pte", "file", 81e6),
               Sample("smollm2", "q4.pte", "busy", 1.4))  # fmt: skip
    results, contenders = Results(samples), select(["smollm2"], ["q4.pte"])
    text = "\n".join(asked_table(results, contenders))
    assert "| 15.2 | disturbed |" in text and "| 81 | pass |" in text
    assert "1.4 cores busy" in "\n".join(circumstances(results, ["smollm2"]))


def test_a_missed_figure_is_called_so():
    samples = (Sample("llama3.2-1b", "q4.pte", "decode", 60.0),
               Sample("llama3.2-1b", "llama-q4_0", "decode", 61.0),
               Sample("llama3.2-1b", "", "bandwidth", 44e9))  # fmt: skip
    lines = asked_table(Results(samples), select(["llama3.2-1b"], ["q4.pte"]))
    text = "\n".join(lines)
    assert "≥ 1 × llama.cpp Q4_0 | 60.0 tok/s | 0.984 | **miss** |" in text
    # 1.236e9 weights of 4.625 bits, 60 times a second, of 44 GB/s
    assert "≥ 0.9 of the read bandwidth | 60.0 tok/s | 0.974 | pass |" in text


def test_ternary_beside_its_bytes_and_its_peer():
    speeds = {"q4.pte": (60.0, 720e6), "ternary.pte": (100.0, 330e6), "llama-tq2_0": (90.0, 325e6)}
    samples = tuple(
        Sample("llama3.2-1b", name, metric, value)
        for name, values in speeds.items() for metric, value in zip(("decode", "file"), values, strict=True)
    )  # fmt: skip
    text = "\n".join(asked_table(Results(samples), select(["llama3.2-1b"], list(speeds))))
    assert "≥ 0.8 of `q4`'s speed in proportion to the bytes | 100.0 tok/s | 0.764 | **miss** |" in text
    assert "≥ 1 × llama.cpp TQ2_0 | 100.0 tok/s | 1.11 | pass |" in text


@pytest.mark.parametrize("script", ["random_checkpoint", "bench_peers"])
def test_scripts_start_as_files(script: str, tmp_path: Path):
    """From any folder, without PYTHONPATH."""
    command = [sys.executable, ROOT / "scripts" / f"{script}.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("usage:") and not done.stderr


DEMO_PYTHON = """
    #!/bin/sh
    # In place of `python -m exporter`: writes an artifact, or says what the file `verdict` holds.
    echo "$3" >> calls
    if [ "$3" = verify ]; then
      cat verdict
      grep -q "^verified" verdict
    else
      date > smollm2.pte
    fi
"""


@pytest.fixture
def demo(tmp_path: Path):
    """Runs scripts/demo.sh in a folder of programs that answer at once: status, stdout, stderr, and
    the exporter's calls of all runs so far."""
    (tmp_path / "verdict").write_text("pass  a check\nverified: smollm2.pte: 17 checks passed\n")
    for folder in ("scripts", "exporter", ".venv/bin", "cmake-out/python"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("demo.sh", "common.sh"):
        (tmp_path / "scripts" / name).write_text((ROOT / "scripts" / name).read_text())
    (tmp_path / "pyproject.toml").touch()
    for name, body in (
        ("scripts/demo.sh", None),
        ("scripts/build_native.sh", "#!/bin/sh"),
        ("cmake-out/et_run", "#!/bin/sh\necho The capital of France is Paris."),
        (".venv/bin/python", textwrap.dedent(DEMO_PYTHON).lstrip()),
    ):
        if body is not None:
            (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)

    def run():
        done = subprocess.run(
            [tmp_path / "scripts" / "demo.sh"], capture_output=True, text=True, timeout=60
        )
        return done, (tmp_path / "calls").read_text().split()

    return run


def test_demo_ends_with_the_verdict(demo, tmp_path: Path):
    text = ["The capital of France is Paris.", "verified: smollm2.pte: 17 checks passed"]
    done, calls = demo()
    assert done.returncode == 0 and done.stdout.splitlines() == text
    assert calls == ["smollm2", "verify"]
    done, calls = demo()
    assert done.stdout.splitlines() == text and "nothing changed" in done.stderr
    assert calls == ["smollm2", "verify"]
    (tmp_path / "cmake-out" / "python" / "_et.so").write_text("built anew")
    assert demo()[1] == ["smollm2", "verify", "verify"]
    (tmp_path / "exporter" / "model.py").write_text("changed")
    assert demo()[1] == ["smollm2", "verify", "verify", "smollm2", "verify"]


def test_demo_fails_when_verify_does(demo, tmp_path: Path):
    line = "NOT verified: layers.3.down: stored weights are 2.0 times as long"
    (tmp_path / "verdict").write_text(f"FAIL  packed weights\n{line}\n")
    for _ in range(2):  # not forgotten when it is run again
        done, calls = demo()
        assert done.returncode == 1 and line in done.stdout
        assert done.stderr.splitlines()[-1].startswith("error: ")
    assert calls == ["smollm2", "verify", "verify"]
