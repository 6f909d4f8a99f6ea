"""The real model at 4 bits on the project's own kernels: both runners, every instruction set."""

import hashlib
import json
import os
import subprocess
import zipfile

import pytest
from native import AOTI_RUN, ET_RUN, TORCH_RUN, export, generate, run, runner_of, stats

PROMPT = "The capital of France is"
# Two chunks of prompt, the second shorter than a tile of any instruction set.
TOKENS = ",".join(str(17 * i % 49152) for i in range(256 + 3))
FIVE_TOKENS = "504,3575,282,4649,314"


@pytest.fixture(scope="module")
def q4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("q4")
    pte, package = folder / "s.pte", folder / "s.pt2"
    export("smollm2", "--quantize", "q4", "--output-pte", pte, "--output-aoti-package", package)
    return pte, package


def test_names_paris(q4):
    texts = {generate(artifact, "-t", 0, "-n", 24, "-i", PROMPT) for artifact in q4}
    assert len(texts) == 1 and "Paris" in texts.pop()


def test_the_file_holds_the_tied_table_once(q4):
    assert q4[0].stat().st_size < 90e6


def test_the_same_bits_everywhere(q4, tmp_path):
    """Of both runners, on each instruction set this CPU has, with 1, 2, 3 and 5 threads: the logits
    of 259 positions, and of 5 where the slow `scalar` takes part."""
    unknown = subprocess.run(
        [ET_RUN, q4[0], "-i", "Hi"], env={**os.environ, "LOWBIT_ISA": "?"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    names = unknown.stderr.split("use one of ")[1].split(", or unset")[0].split(", ")
    long = [(isa, 2) for isa in names if isa != "scalar"] + [(names[0], n) for n in (1, 3, 5)]
    short = [(isa, n) for isa in names for n in (1, 2, 3, 5)]
    for tokens, cases in ((TOKENS, long), (FIVE_TOKENS, short)):
        digests = {
            _digest(artifact, tokens, isa, threads, tmp_path / "logits.npy")
            for artifact in q4 for isa, threads in cases
        }  # fmt: skip
        assert len(digests) == 1


def _digest(artifact, tokens: str, isa: str, threads: int, out) -> str:
    done = subprocess.run(
        [runner_of(artifact), artifact, "--tokens", tokens, "--logits-out", out,
         "--threads", str(threads), "-n", "1", "--stats", "--json"],
        env={**os.environ, "LOWBIT_ISA": isa}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["isa"] == isa
    return hashlib.sha256(out.read_bytes()).hexdigest()


def test_memory_is_the_file_and_the_cache_in_use(q4):
    """The issue's bound: file + used KV cache + 48 MiB. 30 layers, 3 heads of 64, float16, k and v."""
    for artifact in q4:
        numbers = stats(artifact, "-t", 0, "-n", 16, "-i", PROMPT)
        used = 30 * 2 * 3 * 64 * 2 * 32
        assert numbers["peak_rss_bytes"] < artifact.stat().st_size + used + 48 * 2**20


def test_the_same_bits_under_libtorch(q4, artifacts, tmp_path):
    """Of the q4 package and of the unquantized one: as a prompt, and decoded token by token."""
    for package in (q4[1], artifacts[1]):
        for chunk in (256, 1):
            files = []
            for runner in (AOTI_RUN, TORCH_RUN):
                files.append(tmp_path / f"{runner.name}.npy")
                done = run(runner, package, "--tokens", FIVE_TOKENS, "--prefill-chunk", chunk,
                           "--logits-out", files[-1])  # fmt: skip
                assert done.status == 0, done.errors
            assert files[0].read_bytes() == files[1].read_bytes()


def test_the_code_of_thirty_layers_is_small(q4):
    with zipfile.ZipFile(q4[1]) as archive:
        sizes = [info.file_size for info in archive.infolist() if info.filename.endswith(".so")]
    assert len(sizes) == 1 and sizes[0] <= 2e6


def test_a_recipe_of_torchao(tmp_path):
    recipe = '{"embedding": {"bitwidth": 4, "groupsize": 32}, "linear:a8w4dq": {"groupsize": 32}}'
    pte = tmp_path / "q.pte"
    export("smollm2", "--quantize", recipe, "--output-pte", pte)
    assert "Paris" in generate(pte, "-t", 0, "-n", 12, "-i", PROMPT)
    assert run(ET_RUN, pte, "-m", "chat", "-t", 0, "-n", 40, stdin="Hello!\n").status == 0
