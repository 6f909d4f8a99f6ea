"""A context of one position, where nothing in the program is dynamic."""

import numpy as np
import pytest
import tiny
import torch
import transformers
from native import ET_RUN, export, run

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.lower.program import export_buffer_caches, export_input_caches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    tiny.make_hf(folder, "mistral_window")
    return folder


def test_an_artifact_of_one_position(folder, tmp_path):
    artifact, logits = tmp_path / "one.pte", tmp_path / "l.npy"
    export(folder, "--max-seq-length", 1, "--output-pte", artifact)
    assert run(ET_RUN, artifact, "--tokens", "7", "--logits-out", logits).status == 0
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = reference(torch.tensor([[7]])).logits[0].detach().numpy()
    np.testing.assert_allclose(np.load(logits), expected, atol=1e-4)
    longer = run(ET_RUN, artifact, "--tokens", "7,8")
    assert longer.status == 1 and "the context holds 1" in longer.error_line()


@pytest.mark.parametrize("trace", [export_buffer_caches, export_input_caches])
def test_stock_programs_of_one_position(folder, trace):
    model = load_model(open_checkpoint(str(folder)), torch.float32, 1)
    program = trace(model).module()
    inputs = [torch.tensor([[7]]), torch.tensor([0]), torch.tensor([0])]
    caches = [] if trace is export_buffer_caches else model.new_caches()
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = reference(torch.tensor([[7]])).logits[0].detach()
    torch.testing.assert_close(program(*inputs, *caches), expected, atol=1e-4, rtol=0)
