"""Keys and values beyond float16's range: every way in names `--cache-dtype fp32`, which then works."""

import subprocess
import sys

import numpy as np
import pytest
import tiny
from native import ROOT, export, generate, run, runner_of

WORDS = ("beyond 65504", "--cache-dtype fp32")


@pytest.fixture(scope="module", params=["v_proj", "k_proj"])
def artifacts(request, tmp_path_factory):
    """Of a checkpoint with one projection a million times as large, exported as the line says."""
    folder = tmp_path_factory.mktemp("large")
    model = tiny.make_hf(folder / "m", "llama3.1")
    getattr(model.model.layers[1].self_attn, request.param).weight.mul_(1e6)
    model.save_pretrained(folder / "m")
    outputs = ["--output-pte", folder / "a.pte"]
    if request.param == "v_proj":
        outputs += ["--output-aoti-package", folder / "a.pt2"]
    export(folder / "m", *outputs, "--quantize", "q6", "--max-seq-length", 64, "--cache-dtype", "fp32")
    return folder


def test_the_runners(artifacts, tmp_path):
    for path in sorted(artifacts.glob("a.pt*")):
        runner, out = runner_of(path), tmp_path / "l.npy"
        small = ("--cache-dtype", "fp16")
        failed = run(runner, path, "--tokens", "5,6,7", "--logits-out", out, *small)
        assert failed.status == 1 and all(word in failed.error_line() for word in WORDS)
        assert not list(tmp_path.iterdir())
        said = run(runner, path, "-i", "hello", "-n", 3, *small)
        assert said.status == 1 and all(word in said.errors.splitlines()[-1] for word in WORDS)

        generate(path, "-i", "hello", "-n", 3)
        generate(path, "--tokens", "5,6,7", "--logits-out", out)
        assert np.isfinite(np.load(out)).all()
        out.unlink()


def test_the_exporters_verbs(artifacts, tmp_path):
    text = tmp_path / "t"
    text.write_text(" ".join(tiny.TEXT) * 3)
    eager, small = (artifacts / "m", "--quantize", "q6"), ("--cache-dtype", "fp16")
    for arguments in (
        ("eval", artifacts / "a.pte", "--text", text, "--window", 32, *small),
        ("generate", artifacts / "a.pte", "--prompt", "hello", "--max-new-tokens", 3, *small),
        ("eval", *eager, "--text", text, "--window", 32),
        ("export", *eager, "--output-pte", tmp_path / "new.pte"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *map(str, arguments)], cwd=ROOT, capture_output=True,
            text=True, timeout=200,
        )  # fmt: skip
        line = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and line.startswith("error: "), done.stderr
        assert all(word in line for word in WORDS) and "Error:" not in line, line
        assert not (tmp_path / "new.pte").exists()
