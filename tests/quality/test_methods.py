"""What changes weights for a model's quality, and the decoder layer by layer: the same function."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.model.decoder import Transformer
from exporter.quality import layerwise, windows
from exporter.quality.layerwise import Stream, run_block
from exporter.quality.sampling import BatchDecoder
from exporter.quality.transforms import (
    random_orthogonal,
    residual_rotation,
    retie,
    rotate_block,
    rotate_ends,
    smooth_block,
)
from exporter.quality.windows import RotaryTables, float_weights
from scripts import rotate_checkpoint
from scripts.bench.command_line import exit_status

CONTEXT, LENGTH = 48, 20  # longer than the sliding window of 8
# Float32 rounding after two layers is about 1e-6 of the logits' spread; a wrong fold is about 1.
ROUNDING = 1e-4
VARIATIONS = ("smollm2", "llama3.2", "llama3", "attention_bias", "mlp_bias", "head_dim",
              "mistral_window")  # fmt: skip


def make(folder, variation: str) -> Transformer:
    """A tiny model with norms far from 1, of both signs, and with every bias filled."""
    tiny.make_hf(folder, variation)
    state = load_file(folder / "model.safetensors")
    for i, name in enumerate(sorted(state)):
        if "norm" in name or name.endswith("bias"):
            generator = torch.Generator().manual_seed(i)
            state[name] = torch.randn(state[name].shape, generator=generator)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)


def logits(model: Transformer, tokens: Tensor) -> Tensor:
    """[T, V] of int64 [1, T]."""
    with torch.no_grad():
        rows = torch.arange(tokens.shape[1])
        return model.new_session().read(tokens, 0, rows)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    spread = expected.std()
    assert spread > 0.1
    assert (actual - expected).abs().max() < ROUNDING * spread


def weights(model: Transformer) -> list[Tensor]:
    groups = [block.sources(name) for block in model.layers for name in block.matrices]
    return [layer.weight.clone() for group in groups for layer in group]


def rotate(model: Transformer) -> None:
    rotation = residual_rotation(model.config)
    rotate_ends(model, rotation)
    for i, block in enumerate(model.layers):
        rotate_block(block, rotation, i)


def smooth(model: Transformer) -> None:
    """Factors between 1/8 and 8."""
    generator = torch.Generator().manual_seed(5)

    def factors(name: str, weight: Tensor) -> Tensor:
        assert name in model.layers[0].matrices
        return 2 ** (6 * torch.rand(weight.shape[1], generator=generator) - 3)

    for block in model.layers:
        smooth_block(block, factors)


class TestTransforms:
    @pytest.mark.parametrize("variation", VARIATIONS)
    def test_the_function_stays(self, variation, tmp_path):
        model, tokens = make(tmp_path / "m", variation), tiny.prompt(LENGTH)
        expected, tied = logits(model, tokens), model.output.weight is model.tok_embeddings.weight
        for change in (smooth, rotate, smooth, rotate):  # in any order, and again
            before = weights(model)
            change(model)
            after = weights(model)
            assert all((a - b).abs().max() > 1e-2 for a, b in zip(after, before, strict=True))
            assert_same(logits(model, tokens), expected)
        assert (model.output.weight is model.tok_embeddings.weight) == tied
        assert (model.head is not None) == tied

    def test_a_rotated_copy_gets_one_table_again(self, tmp_path):
        make(tmp_path / "m", "smollm2")
        words = [str(tmp_path / name) for name in ("m", "copy")]
        assert exit_status(rotate_checkpoint.main, words) == 0
        model = load_model(open_checkpoint(words[1]), torch.float32, CONTEXT)
        assert model.output.weight is not model.tok_embeddings.weight
        expected = logits(model, tiny.prompt(LENGTH))
        assert retie(model) < 1e-5
        assert model.output.weight is model.tok_embeddings.weight and model.head is not None
        assert_same(logits(model, tiny.prompt(LENGTH)), expected)
        rotate(model)
        assert_same(logits(model, tiny.prompt(LENGTH)), expected)
        assert retie(model) is None  # it has one table

    def test_a_head_before_a_norm_that_is_not_one_is_rotated(self, tmp_path):
        model = make(tmp_path / "m", "llama3")
        matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) / 8
        model.output.weight = torch.nn.Parameter(model.tok_embeddings.weight @ matrix, False)
        expected = logits(model, tiny.prompt(LENGTH))
        assert retie(model) < 1e-5 and (model.head.weight - matrix).abs().max() < 1e-4
        rotate(model)
        assert_same(logits(model, tiny.prompt(LENGTH)), expected)

    def test_what_cannot_be_tied_is_refused(self, tmp_path):
        model = make(tmp_path / "m", "llama3")
        before = logits(model, tiny.prompt(LENGTH))
        with pytest.raises(ValueError, match='"retie": .* not its embedding times a matrix'):
            retie(model)
        assert torch.equal(logits(model, tiny.prompt(LENGTH)), before)

    def test_rotations_are_orthogonal_and_spread_outliers(self):
        turn = random_orthogonal(64, 3)
        assert (turn @ turn.T - torch.eye(64, dtype=torch.float64)).abs().max() < 1e-13
        assert torch.equal(turn, random_orthogonal(64, 3))
        outlier = torch.zeros(64, dtype=torch.float64)
        outlier[7] = 8.0
        assert (outlier @ turn).abs().max() < 4


class TestLayerwise:
    @pytest.mark.parametrize("variation", VARIATIONS)
    def test_streams_are_the_models_hidden_states(self, variation, tmp_path, monkeypatch):
        monkeypatch.setattr(windows, "QUERIES_AT_ONCE", 8)  # 8, 8 and 4
        model = make(tmp_path / "m", variation)
        tokens = tiny.prompt(9 * LENGTH).view(9, LENGTH)  # more windows than are done at once
        hidden: list[list[Tensor]] = [[] for _ in model.layers]
        for layer, found in zip(model.layers, hidden, strict=True):
            layer.register_forward_hook(lambda m, i, out, found=found: found.append(out))
        for window in tokens:
            logits(model, window[None])
        positions = RotaryTables(model.config, LENGTH)
        with torch.no_grad():
            stream = Stream(F.embedding(tokens, model.tok_embeddings.weight), positions)
            for block, expected in zip(model.layers, hidden, strict=True):
                known = float_weights(block)
                assert_same(run_block(block, stream.x, known, positions), torch.stack(expected))
                stream.enter(block, known)
                for name in block.matrices:
                    stream.go_on(name)
                assert_same(stream.x, torch.stack(expected))

    @pytest.mark.parametrize("variation", ["smollm2", "attention_bias", "mlp_bias"])
    def test_inputs_are_held_as_far_as_there_is_room(self, variation, tmp_path, monkeypatch):
        """Five windows in parts of two: with room for none, three (one part) and all of them."""
        monkeypatch.setattr(layerwise, "_parts", lambda n: [slice(0, 2), slice(2, 4), slice(4, 5)])
        model = make(tmp_path / "m", variation)
        tokens, positions = tiny.prompt(5 * LENGTH).view(5, LENGTH), RotaryTables(model.config, LENGTH)
        block, parts = model.layers[0], layerwise._parts(5)
        known = float_weights(block)
        with torch.no_grad():
            x = F.embedding(tokens, model.tok_embeddings.weight)
            for room, count in ((0, 0), (3, 1), (5, 3)):
                held, other = (Stream(x.clone(), positions) for _ in range(2))
                for stream in (held, other):
                    stream.enter(block, known)
                for name in block.matrices:
                    made = [other.input(name, part) for part in parts]
                    monkeypatch.setattr(layerwise, "MOST_HELD", room * made[-1].nbytes + 1)
                    held.hold(name)
                    first, again = ([held.input(name, part) for part in parts] for _ in range(2))
                    same = [a.data_ptr() == b.data_ptr() for a, b in zip(first, again, strict=True)]
                    assert sum(same) == (count if held.ends_branch(name) else 0)
                    assert all(torch.equal(a, b) for a, b in zip(made + made, first + again, strict=True))
                    if name == "wo":  # past it without go_on: what is held of it is not that of `down`
                        for part in parts:
                            held.take(name, part)
                    else:
                        held.go_on(name)
                    weight, bias = known[name]
                    for part, y in zip(parts, made, strict=True):
                        before = other.x[part].clone()
                        taken, added = other.through(name, part)
                        assert torch.equal(taken, y)
                        if held.ends_branch(name):
                            assert torch.equal(added, F.linear(y, weight))
                            assert_same(other.x[part], before + F.linear(y, weight, bias))
                        else:
                            assert added is None
                    assert torch.equal(held.x, other.x)

    @pytest.mark.parametrize("variation", VARIATIONS)
    def test_batches_decode_as_the_model_does(self, variation, tmp_path):
        model = make(tmp_path / "m", variation)
        tokens = tiny.prompt(3 * LENGTH).view(3, LENGTH)
        expected = torch.stack([logits(model, window[None]) for window in tokens])
        rotate(model)  # with a head where it is tied
        decoder = BatchDecoder(model, 3, LENGTH)
        with torch.no_grad():
            steps = [decoder.step(tokens[:, t]) for t in range(LENGTH)]
        assert_same(torch.stack(steps, 1), expected)
