"""Windows of text go through every kind of layer matrix by matrix as they go through it at once."""

import pytest
import tiny
import torch
from layers import LAYERS, LENGTH, make

from exporter.quality.layerwise import Stream, run_block
from exporter.quality.windows import RotaryTables, embedded, float_weights

MAX_ERROR = 1e-5  # of the largest number: float32 sums in another order


@pytest.mark.parametrize("name", LAYERS)
def test_matrix_by_matrix(name):
    model = make((LAYERS[name],) * 2)
    positions = RotaryTables(model.config, LENGTH)
    with torch.no_grad():
        stream = Stream(embedded(model, tiny.prompt(3 * LENGTH).view(3, LENGTH)), positions)
        for block in model.layers:
            known = float_weights(block)
            expected, before = run_block(block, stream.x, known, positions), stream.x.clone()
            stream.enter(block, known)
            for matrix in block.matrices:
                assert stream.input(matrix, slice(0, 3)).shape[-1] == block.matrices[matrix].columns
                stream.go_on(matrix)
            stream.leave()
            assert (stream.x - expected).abs().max() < MAX_ERROR * expected.abs().max()
            assert (stream.x - before).abs().max() > 0.01 * expected.abs().max()
