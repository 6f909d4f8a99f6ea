"""An export that ends early leaves no file, whatever it had kept on disk by then."""

import signal
import subprocess
import sys
from functools import partial

import pytest
from native import ROOT

from exporter.cli.command_line import EXIT_INTERRUPTED
from exporter.lowbit.on_disk import LEAST_BYTES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope, repeated
from scripts.bench.random_folder import repeated_rows, write_folder

DIM = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint whose packed matrices are large enough to be kept on disk."""
    folder = tmp_path_factory.mktemp("wide") / "m"
    layer = LayerSpec(AttentionSpec(8, 2, 64, Rope(1e4, 64)), FeedForwardSpec(1024))
    config = ModelConfig("llama", DIM, repeated([layer], 3), 320, 1e-5, 256, tied_embeddings=False)
    write_folder(folder, config, "bf16", 0, lambda line: None, repeated_rows)
    assert DIM * DIM > LEAST_BYTES
    return folder


@pytest.mark.parametrize(
    ("stop", "when", "status"),
    [
        (signal.SIGINT, "packing: layer 1", EXIT_INTERRUPTED),
        (signal.SIGKILL, "torch.export", -signal.SIGKILL),
    ],
)
def test_nothing_stays(stop, when, status, folder, tmp_path):
    words = [folder, "--quantize", "q8", "--output-pte", tmp_path / "m.pte"]
    command = [sys.executable, "-m", "exporter", *words]
    # What is started in a shell's background ignores SIGINT, and so would what it starts.
    by_default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=by_default
    ) as process:
        assert any(line.startswith(when) for line in process.stderr)
        process.send_signal(stop)
        process.stderr.read()
        assert process.wait(60) == status
    assert not list(tmp_path.iterdir())
