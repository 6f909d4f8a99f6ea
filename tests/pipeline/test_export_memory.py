"""What an export holds in memory of its own: a matrix at a time, and not the model."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from native import ROOT

from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope, repeated
from scripts.bench.random_folder import repeated_rows, write_folder

LAYERS, DIM, HIDDEN = 12, 512, 4096
LARGEST = 2 * HIDDEN * DIM  # values of the largest packed matrix, gate and up
# Bytes a value while it is packed: 2 of bfloat16 rows put together, 1 of integers, their scales in float32
# twice over, the packed bytes, and those once more while they are written.
BYTES = 2 + 1 + 2 * 4 / 32 + 2 * (1 + 2 / 32)
SLACK = 24 << 20  # of what the allocator keeps, and of longer lists of larger things
# In a process of its own: exports a narrow model, then a wide one, and prints the anonymous memory of each.
MEASURE = textwrap.dedent("""
    import json, sys, threading, time
    from exporter.cli import main

    def anonymous():
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    def most(folder, output):
        found, done = [anonymous()], threading.Event()
        def look():
            while not done.wait(0.002):
                found.append(anonymous())
        watcher = threading.Thread(target=look)
        watcher.start()
        status = main.main([folder, "--quantize", "q8", "--max-seq-length", "64", *output])
        done.set()
        watcher.join()
        assert status == 0
        return max(found)

    narrow, wide, *output = sys.argv[1:]
    print(json.dumps([most(narrow, output), most(wide, output)]))
""")


def make(folder: Path, dim: int, hidden: int) -> Path:
    attention = AttentionSpec(8, 2, dim // 8, Rope(1e4, dim // 8))
    layers = repeated([LayerSpec(attention, FeedForwardSpec(hidden))], LAYERS)
    config = ModelConfig("llama", dim, layers, 320, 1e-5, 256, tied_embeddings=False)
    write_folder(folder, config, "bf16", 0, lambda line: None, repeated_rows)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is anonymous")
@pytest.mark.parametrize("flag", ["--output-pte", "--output-aoti-package"])
def test_a_wide_model(flag, tmp_path):
    narrow, wide = make(tmp_path / "narrow", 128, 128), make(tmp_path / "wide", DIM, HIDDEN)
    output = tmp_path / "m.out"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, narrow, wide, flag, output], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = json.loads(done.stdout)
    bound = LARGEST * BYTES + SLACK
    assert bound < 0.8 * output.stat().st_size  # else it would tell nothing
    assert after - before < bound
