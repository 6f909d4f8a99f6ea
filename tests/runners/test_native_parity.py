"""Both runners against transformers, in float32, for every variation of the family."""

import numpy as np
import pytest
import tiny
import torch
from native import export, logits

MAX_ERROR = 1e-4
LENGTHS = {"mistral_window": 40}
DEFAULT_LENGTH = 100  # longer than the original context of the scaled variations
SHORT_CHUNK = 7  # does not divide either length


@pytest.mark.parametrize("variation", tiny.VARIATIONS)
def test_logits_equal_transformers(variation, tmp_path):
    reference = tiny.make_hf(tmp_path / "model", variation)
    pte, package = tmp_path / "m.pte", tmp_path / "m.pt2"
    export(
        tmp_path / "model", "--max-seq-length", 128, "--target", "x86-64-v3",
        "--output-pte", pte, "--output-aoti-package", package,
    )  # fmt: skip
    tokens = tiny.prompt(LENGTHS.get(variation, DEFAULT_LENGTH))
    with torch.no_grad():
        expected = reference(tokens).logits[0].float().numpy()
    for artifact in (pte, package):
        for chunk in ((), ("--prefill-chunk", SHORT_CHUNK), ("--prefill-chunk", 1)):
            actual = logits(artifact, tokens[0].tolist(), tmp_path, *chunk)
            assert actual.shape == expected.shape and actual.dtype == np.float32
            error = np.abs(actual - expected).max() / np.abs(expected).max()
            assert error < MAX_ERROR, (artifact.name, chunk, error)
