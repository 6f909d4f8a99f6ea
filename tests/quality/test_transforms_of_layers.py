"""Transforms keep the function of every kind of layer, or are refused."""

import pytest
import torch
from layers import LAYERS, LENGTH, logits, make

from exporter.quality.transforms import (
    residual_rotation,
    rotate_block,
    rotate_ends,
    smooth_block,
)
from exporter.recipe.model_limits import check_rotation

# Float32 rounding of folded weights, up to 8 times larger and smaller, of the largest logit.
MAX_ERROR = 1e-4
MODELS = {name: (layer,) * 2 for name, layer in LAYERS.items()} | {"all": tuple(LAYERS.values())}


@pytest.mark.parametrize("name", MODELS)
def test_smoothing_keeps_the_function(name):
    model = make(MODELS[name])
    expected, generator = logits(model), torch.Generator().manual_seed(5)
    seen = set()

    def factors(matrix: str, weight: torch.Tensor) -> torch.Tensor:
        seen.add(matrix)
        return 2 ** (6 * torch.rand(weight.shape[1], generator=generator) - 3)

    for block in model.layers:
        smooth_block(block, factors)
    assert {"wo"} <= seen <= {"wqkv", "wo", "gate_up", "up", "down"}
    assert (logits(model) - expected).abs().max() < MAX_ERROR * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_rotation_keeps_the_function_or_is_refused(name):
    model = make(MODELS[name])
    layers = model.config.layers
    if any(layer.norm_out or layer.norm == "layer" for layer in layers):
        with pytest.raises(ValueError, match='"rotate": .*(has layer norms|attention_out_norm)'):
            check_rotation(model.config)
        return
    check_rotation(model.config)
    expected, rotation = logits(model), residual_rotation(model.config)
    rotate_ends(model, rotation)
    for i, block in enumerate(model.layers):
        rotate_block(block, rotation, i)
    found = logits(model)
    assert found.shape[0] == LENGTH
    assert (found - expected).abs().max() < MAX_ERROR * expected.abs().max()
