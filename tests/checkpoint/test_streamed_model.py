"""Layers read from the checkpoint when they are asked for: the same model, one layer of it held."""

import os
import re
from pathlib import Path

import pytest
import tiny
import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.checkpoint.streamed import stream_model
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.recipe.recipe import Recipe, parse_recipe

CONTEXT = 48


@pytest.mark.parametrize("variation", ["smollm2", "attention_bias"])
def test_it_is_the_same_model(variation, tmp_path):
    tiny.make_hf(tmp_path / "m", variation)
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    whole, streamed = load_model(checkpoint, torch.float32, CONTEXT), stream_model(checkpoint, CONTEXT)
    tokens, rows = torch.arange(20)[None], torch.arange(20)
    with torch.no_grad():
        expected, found = (m.new_session().read(tokens, 0, rows) for m in (whole, streamed))
    assert torch.equal(expected, found)
    assert (streamed.output.weight is streamed.tok_embeddings.weight) == checkpoint.config.tied_embeddings
    assert len(list(streamed.layers)) == len(streamed.layers) == checkpoint.config.n_layers
    with pytest.raises(IndexError, match=f"layer {len(streamed.layers)} of"):
        streamed.layers[len(streamed.layers)]


def test_changes_are_made_each_time(tmp_path):
    tiny.make_hf(tmp_path / "m", "smollm2")
    model = stream_model(open_checkpoint(str(tmp_path / "m")), CONTEXT)
    before = model.layers[1].ffn_norm.weight.clone()
    model.layers.then(lambda block, i: block.ffn_norm.weight.add_(i))
    model.layers.then(lambda block, i: block.ffn_norm.weight.mul_(2))
    for _ in range(2):
        assert torch.equal(model.layers[1].ffn_norm.weight, (before + 1) * 2)
    assert torch.equal(model.layers[0].ffn_norm.weight, model.layers[0].ffn_norm.weight)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_a_layer_goes_with_whoever_asked_for_it(tmp_path):
    """Views of a float32 file are of a mapping that ends with them; packing keeps none."""
    tiny.make_hf(tmp_path / "m", "smollm2")
    model = stream_model(open_checkpoint(str(tmp_path / "m")), CONTEXT)

    def mappings() -> int:
        maps = Path("/proc/self/maps").read_text()
        return len(re.findall(re.escape(os.fspath(tmp_path / "m")), maps))

    held = mappings()
    block = model.layers[0]
    assert mappings() > held
    del block
    assert mappings() == held
    options = PackOptions(parse_recipe("q4"), torch.float32)
    packed = LowbitTransformer(model, options, "float16", lambda line: None)
    assert mappings() == held
    del model
    assert mappings() == 0 and packed.norm is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variation", ["smollm2", "attention_bias"])
@pytest.mark.parametrize("quantize", ["q4", None])
def test_what_is_only_packed_is_read_as_it_is_stored(dtype, variation, quantize, tmp_path):
    tiny.make_hf(tmp_path / "m", variation).to(dtype).save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    recipe = Recipe() if quantize is None else parse_recipe(quantize)
    packed = []
    for as_stored in (False, True):
        model = stream_model(checkpoint, CONTEXT, as_stored)
        stored = dtype if as_stored else torch.float32
        assert model.output.weight.dtype == model.layers[0].attention.wq.weight.dtype == stored
        assert model.norm.weight.dtype == model.layers[0].ffn_norm.weight.dtype == torch.float32
        options = PackOptions(recipe, torch.float32)
        packed.append(LowbitTransformer(model, options, "float16", lambda line: None).state_dict())
    assert packed[0].keys() == packed[1].keys()
    assert all(torch.equal(packed[0][name], packed[1][name]) for name in packed[0])


def test_a_file_that_is_damaged_afterwards(tmp_path):
    tiny.make_hf(tmp_path / "m", "smollm2")
    model = stream_model(open_checkpoint(str(tmp_path / "m")), CONTEXT)
    (path,) = (tmp_path / "m").glob("*.safetensors")
    part = path.with_suffix(".part")
    part.write_bytes(path.read_bytes()[:-100])
    part.rename(path)
    with pytest.raises(ValueError, match=f"{path} has changed since it was opened"):
        model.layers[0]
