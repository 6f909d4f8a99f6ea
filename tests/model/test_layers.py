"""Every part that a layer can have: the float graph, windows of text and our operators compute one thing."""

import native
import numpy as np
import pytest
import tiny
import torch
from layers import CONTEXT, LAYERS, LENGTH, PLAIN, logits, make
from native import export

from exporter.checkpoint import streamed
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.lowbit.state import State
from exporter.model.config import repeated
from exporter.model.decoder import Transformer
from exporter.quality.sampling import BatchDecoder
from exporter.recipe.model_limits import check_model
from exporter.recipe.recipe import Recipe
from exporter.recipe.schemes import AOTI, EXECUTORCH, LOWBIT, STOCK

MAX_ERROR = 1e-5  # of the largest logit: float32 sums in another order


def by_windows(model: Transformer) -> torch.Tensor:
    """As the model's own text is written: 30 positions at once, the others one by one."""
    tokens, decoder = tiny.prompt(LENGTH), BatchDecoder(model, 1, CONTEXT)
    with torch.no_grad():
        decoder.read(tokens[:, :30])
        return torch.cat([decoder.step(tokens[:, i]) for i in range(30, LENGTH)])


def packed(model: Transformer) -> LowbitTransformer:
    """On our operators, with float32 weights."""
    return LowbitTransformer(model, PackOptions(Recipe(), torch.float32), "float32", lambda line: None)


def assert_alike(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < MAX_ERROR * expected.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_one_computation(name):
    model = make(repeated([LAYERS[name]], 2))
    expected = logits(model)
    assert (expected - logits(make(repeated([PLAIN], 2)))).abs().max() > 0.01 * expected.abs().max()
    assert_alike(by_windows(model), expected[30:])
    lowbit = packed(model)
    found = logits(lowbit)
    assert_alike(found, expected)
    assert torch.equal(logits(lowbit, 7), found) and torch.equal(logits(lowbit, 1), found)


def test_layers_that_differ_in_everything():
    model = make(tuple(LAYERS.values()), embedding_scale=3.0)
    expected = logits(model)
    assert_alike(by_windows(model), expected[30:])
    assert_alike(logits(packed(model)), expected)


def test_layers_that_differ_in_both_runners(tmp_path, monkeypatch):
    """All of them in artifacts, chunk by chunk: the bits of eager. A state takes its layers in their order,
    each once a forward, so that no call was left out, doubled or moved on the way to either backend."""
    layers = tuple(LAYERS.values())
    # Its tokenizer, name and number of layers are those of the artifacts.
    tiny.make_hf(tmp_path / "m", "smollm2", num_hidden_layers=len(layers))
    monkeypatch.setattr(streamed, "stream_model", lambda checkpoint, context, as_stored: make(layers))
    pte, package = tmp_path / "m.pte", tmp_path / "m.pt2"
    export(tmp_path / "m", "--max-seq-length", CONTEXT, "--output-pte", pte, "--output-aoti-package", package)
    expected = logits(packed(make(layers))).numpy()
    tokens = tiny.prompt(LENGTH)[0].tolist()
    for artifact in (pte, package):
        for chunk in ((), ("--prefill-chunk", 7), ("--prefill-chunk", 1)):
            found = native.logits(artifact, tokens, tmp_path, *chunk)
            assert np.array_equal(found, expected), (artifact.name, chunk)


def test_a_layer_that_is_left_out_is_refused():
    model = packed(make(repeated([PLAIN], 3)))
    assert logits(model).isfinite().all()
    model.layers = torch.nn.ModuleList([model.layers[0], model.layers[2]])
    with pytest.raises(RuntimeError, match="the forward ran 2 of 3 layers"):
        logits(model)


def test_sessions_of_pytorchs_own_operators():
    """As the runners' (tests/runners/test_sessions.py)."""
    model = packed(make(repeated([PLAIN], 2)))
    tokens, whole = tiny.prompt(LENGTH), logits(model)
    state = State(model.state_layout(), CONTEXT, "float32", 3)

    def read(*turns: tuple[int, int, int]) -> list[torch.Tensor]:
        """Of (session, from, to) each one's logits of these tokens."""
        segments = torch.tensor([[session, end - start] for session, start, end in turns])
        given = torch.cat([tokens[:, start:end] for _, start, end in turns], 1)
        with torch.no_grad(), state.forward(segments):
            found = model(given, segments, torch.arange(given.shape[1]), state.tensor)
        return list(found.split([end - start for _, start, end in turns]))

    a, b = state.open(), state.open()
    for found, (start, end) in zip(read((a, 0, 20), (b, 0, 33)), ((0, 20), (0, 33)), strict=True):
        assert torch.equal(found, whole[start:end])
    c = state.fork(a)
    first, second = read((c, 20, 35), (a, 20, 21))
    assert torch.equal(first, whole[20:35]) and torch.equal(second, whole[20:21])
    state.rewind(b, 5)
    saved = state.save(c)
    state.drop(c)
    restored = state.restore(saved, 35)
    assert (state.position(restored), state.position(b)) == (35, 5)
    first, second = read((b, 5, 9), (restored, 35, LENGTH))
    assert torch.equal(first, whole[5:9]) and torch.equal(second, whole[35:])
    with pytest.raises(RuntimeError, match=f"there is no session {c}: it was dropped"):
        state.fork(c)
    with pytest.raises(RuntimeError, match="is twice in a forward"):
        read((a, 0, 1), (a, 1, 2))


def test_caches_of_two_shapes_are_refused_for_aotinductor_on_stock_operators():
    config = make(tuple(LAYERS.values())).config
    check_model(config, Recipe(), (EXECUTORCH, AOTI), LOWBIT, None)
    check_model(config, Recipe(), (EXECUTORCH,), STOCK, None)
    with pytest.raises(ValueError, match="1 key-value heads of width 24 and 2 .* of width 32.*--output-pte"):
        check_model(config, Recipe(), (EXECUTORCH, AOTI), STOCK, None)
