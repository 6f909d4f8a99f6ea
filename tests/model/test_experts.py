"""A mixture of experts in float, and what is refused for a model that has one."""

import json

import pytest
import torch
from layers import feeding

from exporter.model import experts
from exporter.model.config import Experts, ModelConfig
from exporter.recipe.model_limits import check_model
from exporter.recipe.recipe import Recipe, parse_recipe
from exporter.recipe.schemes import AOTI, EXECUTORCH, LOWBIT, STOCK


def test_rows_are_those_of_experts_in_the_order_of_tokens():
    routes = torch.tensor([[2, 0, 0.75, 0.25], [0, 1, 0.5, 0.5], [0, 2, 1.0, 0.0]])
    x = torch.tensor([[1.0], [2.0], [3.0]])
    rows = experts.dispatch(x, routes)
    assert rows.flatten().tolist() == [1, 2, 3, 2, 1, 3]
    assert experts.rows_by_expert(routes, 4) == [3, 1, 2, 0]
    made = rows * torch.tensor([[1.0], [1.0], [1.0], [10.0], [100.0], [100.0]])
    assert experts.combine(made, routes).flatten().tolist() == [75.25, 11.0, 3.0]


def test_routes_are_the_softmax_of_the_largest():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    whole = torch.softmax(logits, -1)[0]
    numbers, factors = experts.route(Experts(3, 2, renormalize=False), logits)[0].chunk(2)
    assert numbers.tolist() == [1, 2] and torch.equal(factors, whole[1:])
    _, factors = experts.route(Experts(3, 2, renormalize=True), logits)[0].chunk(2)
    torch.testing.assert_close(factors, whole[1:] / whole[1:].sum())


FLOATS = Recipe()


def config(hidden_dim: int = 32, gated: bool = True) -> ModelConfig:
    layer = feeding(hidden_dim=hidden_dim, gated=gated, experts=Experts(4, 2, renormalize=True))
    return ModelConfig("test", 64, (layer,), 320, 1e-5, 256, tied_embeddings=True)


def refusal(config: ModelConfig, recipe: Recipe = FLOATS, delegate: str = LOWBIT, fit: str | None = None):
    with pytest.raises(ValueError) as found:
        check_model(config, recipe, (EXECUTORCH, AOTI), delegate, fit)
    return str(found.value)


def test_what_experts_do_not_have():
    check_model(config(), parse_recipe("q4"), (EXECUTORCH, AOTI), LOWBIT, None)
    assert "leave --delegate stock out" in refusal(config(), delegate=STOCK)
    assert "--fit 4.5bpw" in refusal(config(), fit="4.5bpw")
    for method in ("gptq", "awq", "rotate", "rotate+gptq"):
        recipe = parse_recipe(json.dumps({"linear:a8wx": {"bitwidth": 4, "method": method}}))
        text = refusal(config(), recipe)
        assert method in text and "use one of rtn, hqq" in text
    assert "24 products" in refusal(config(24, gated=False))
    check_model(config(24), FLOATS, (EXECUTORCH,), LOWBIT, None)


@pytest.mark.parametrize(("count", "chosen"), [(4, 5), (0, 0), (2000, 2), (4, 0), (4, True)])
def test_impossible_experts(count, chosen):
    with pytest.raises(ValueError, match="experts"):
        Experts(count, chosen, renormalize=True)
