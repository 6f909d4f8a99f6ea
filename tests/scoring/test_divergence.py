"""KL divergence, its summary and the perplexities beside it, against float64."""

import math

import numpy as np
import pytest
import torch

from exporter.scoring import divergence


@pytest.mark.parametrize(("noise", "cached"), [(1.0, torch.float32), (1e-2, torch.float16)])
def test_divergence_is_accurate(noise, cached):
    generator = torch.Generator().manual_seed(1)
    reference = 3 * torch.randn(100, 5000, generator=generator)
    logits = reference + noise * torch.randn(100, 5000, generator=generator) + 11
    log_p, log_q = (x.double().log_softmax(-1) for x in (reference, logits))
    wanted = (log_p.exp() * (log_p - log_q)).sum(-1).numpy()
    found = divergence.divergence(divergence.log_probabilities(reference).to(cached), logits)
    assert abs(found.kl.mean() - wanted.mean()) < 1e-6
    assert (found.same_top == (reference.argmax(-1) == logits.argmax(-1)).numpy()).all()
    targets = np.arange(100)
    of_model = divergence.target_log_probabilities(logits, targets, found)
    of_reference = log_p.numpy()[targets, targets].astype("float32")
    summary = divergence.summarize([divergence.Comparison(found, of_model, of_reference)])
    lost = (log_p - log_q).numpy()[targets, targets]
    assert summary.perplexity == pytest.approx(math.exp(-log_p.numpy()[targets, targets].mean()))
    assert summary.perplexity_ratio == pytest.approx(math.exp(lost.mean()), rel=1e-4)
    error = math.exp(lost.mean()) * lost.std() / math.sqrt(99)
    assert summary.perplexity_ratio_error == pytest.approx(error, rel=1e-2)
    assert summary.kl_error == pytest.approx(wanted.std() / math.sqrt(99), rel=5e-2)
    assert summary.kl_p99 == pytest.approx(np.percentile(wanted, 99), rel=5e-2)


def test_divergence_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="cannot be compared"):
        divergence.divergence(torch.zeros(2, 5), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="not finite"):
        divergence.divergence(torch.zeros(1, 2), torch.tensor([[0.0, math.nan]]))
