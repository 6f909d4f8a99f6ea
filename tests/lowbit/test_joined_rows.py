"""Matrices that are read as one."""

import pytest
import torch

from exporter.lowbit.joined_rows import JoinedRows
from exporter.lowbit.weights import quantize_linear
from exporter.recipe.recipe import parse_recipe

PARTS = [torch.arange(n * 32.0).view(n, 32) + 1000 * i for i, n in enumerate((3, 1, 7, 2))]


@pytest.mark.parametrize("rows", [
    slice(None), slice(0, 2), slice(2, 5), slice(3, 4), slice(4, 11), slice(5, 100), slice(0, 13, 5),
    slice(2, 12, 4), slice(1, 3, 7), slice(13, 20), slice(4, 4),
])  # fmt: skip
def test_slices(rows):
    joined, whole = JoinedRows(PARTS), torch.cat(PARTS)
    assert joined.shape == tuple(whole.shape) and len(joined) == len(whole)
    assert torch.equal(joined[rows], whole[rows])


@pytest.mark.parametrize("recipe", ["q4", "q1", "q8"])
def test_they_are_quantized_as_one(recipe):
    torch.manual_seed(5)
    parts = [torch.randn(n, 256) for n in (5, 64, 3)]
    scheme = parse_recipe(recipe).linear
    found, expected = quantize_linear(JoinedRows(parts), scheme), quantize_linear(torch.cat(parts), scheme)
    assert torch.equal(found.values, expected.values) and torch.equal(found.scales, expected.scales)
