"""Text that the model writes: drawn from its distribution, kept as it grows, gone on with."""

from dataclasses import replace

import pytest
import torch
from quantized_tiny import CONTEXT, loaded

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.streamed import stream_model
from exporter.quality import own_text as ours
from exporter.quality.own_text import NOTHING, Written, keep_text, own_text, read_kept_text
from exporter.quality.sampling import BatchDecoder
from exporter.tokenizer.tokenizer import read_tokenizer

COUNT = 6


@pytest.fixture(scope="module")
def tokenizer(folder):
    return read_tokenizer(open_checkpoint(str(folder)).tokenizer_path)


@pytest.fixture(scope="module")
def whole(folder, tokenizer):
    return own_text(loaded(folder), tokenizer, COUNT, CONTEXT, None)


@pytest.mark.parametrize("window", [None, 5], ids=["all", "sliding"])
def test_reading_is_as_many_steps(folder, whole, window):
    checkpoint = open_checkpoint(str(folder))
    layers = (
        replace(layer, attention=replace(layer.attention, window=window))
        for layer in checkpoint.config.layers
    )
    config = replace(checkpoint.config, layers=tuple(layers))
    model = stream_model(replace(checkpoint, config=config), CONTEXT)
    stepped, read = (BatchDecoder(model, COUNT, CONTEXT) for _ in range(2))
    with torch.no_grad():
        for t in range(20):
            stepped.step(whole[:, t])
        read.read(whole[:, :20])
        assert read.position == stepped.position == 20
        for a, b in zip(sum(read.caches, ()), sum(stepped.caches, ()), strict=True):
            torch.testing.assert_close(a[:, :, :20], b[:, :, :20], rtol=1e-4, atol=1e-5)
        logits = [decoder.step(whole[:, 20]) for decoder in (read, stepped)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [COUNT, 4], ids=["one part", "two parts"])
def test_interrupted_it_goes_on(folder, tokenizer, whole, tmp_path, monkeypatch, at_once):
    kept, steps = tmp_path / "text.safetensors", []
    monkeypatch.setattr(ours, "AT_ONCE", at_once)
    monkeypatch.setattr(ours, "STEPS", 4)
    expected = own_text(loaded(folder), tokenizer, COUNT, CONTEXT, None)
    if at_once == COUNT:
        assert torch.equal(expected, whole)
    step, last = BatchDecoder.step, [CONTEXT + 10 if at_once < COUNT else 10]

    def counted(self, tokens):
        if len(steps) == last[0]:
            raise KeyboardInterrupt
        steps.append(tokens)
        return step(self, tokens)

    monkeypatch.setattr(BatchDecoder, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        own_text(loaded(folder), tokenizer, COUNT, CONTEXT, kept)
    unfinished = read_kept_text(kept).tokens
    assert 0 < int((unfinished == NOTHING).sum()) < unfinished.numel()
    last[0] = -1
    assert torch.equal(own_text(loaded(folder), tokenizer, COUNT, CONTEXT, kept), expected)
    parts = -(-COUNT // at_once)
    # All but what came after the last state that was kept, 4 positions at the most.
    assert parts * (CONTEXT - 1) <= len(steps) <= parts * (CONTEXT - 1) + 4
    own_text(loaded(folder), tokenizer, COUNT, CONTEXT, kept)
    assert not (read_kept_text(kept).tokens == NOTHING).any() and len(steps) <= parts * (CONTEXT - 1) + 4


def test_what_cannot_be_read_is_written_again(folder, tokenizer, whole, tmp_path):
    kept = tmp_path / "text.safetensors"
    state = torch.Generator().get_state()
    other = Written(torch.zeros(2, 3, dtype=torch.int64), state)
    for damage in (None, b"", b"{}", other, Written(whole.clone(), state[:-8])):
        if isinstance(damage, Written):
            keep_text(kept, damage)
        elif damage is not None:
            kept.write_bytes(damage)
        assert torch.equal(own_text(loaded(folder), tokenizer, COUNT, CONTEXT, kept), whole)
        assert torch.equal(read_kept_text(kept).tokens, whole)
