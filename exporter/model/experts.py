"""A mixture of experts in float.

Shapes: T tokens, E experts, k chosen for a token, D model width. Routes are float32 [T, 2 k]: the numbers of
a token's experts, the likeliest first, then the factors of their results. Rows are the T k pairs of a token
and an expert of its, those of an expert together in the order of its tokens.

Sources: arXiv 1701.06538, 2401.04088; `kernels/lowbit.h` has the same in C++.
"""

import torch
from torch import Tensor

from exporter.model.config import Experts


def route(experts: Experts, logits_TE: Tensor) -> Tensor:
    """Return the routes of the router's logits."""
    logits, numbers = torch.topk(logits_TE.float(), experts.chosen)
    if experts.renormalize:
        factors = torch.softmax(logits, dim=-1)
    else:
        factors = torch.softmax(logits_TE.float(), dim=-1).gather(1, numbers)
    return torch.cat((numbers.float(), factors), dim=-1)


def dispatch(x_TD: Tensor, routes: Tensor) -> Tensor:
    """Return each token's row once for each of its experts, [T k, D]."""
    return x_TD[_order(routes) // (routes.shape[1] // 2)]


def rows_by_expert(routes: Tensor, count: int) -> list[int]:
    """Count each expert's rows."""
    return torch.bincount(_numbers(routes), minlength=count).tolist()


def combine(y: Tensor, routes: Tensor) -> Tensor:
    """Return the sums [T, D] of the rows [T k, D] that are a token's, times their factors."""
    k = routes.shape[1] // 2
    by_token = torch.empty_like(y)
    by_token[_order(routes)] = y
    return (by_token.unflatten(0, (-1, k)) * routes[:, k:, None].to(y.dtype)).sum(1)


def _numbers(routes: Tensor) -> Tensor:
    return routes[:, : routes.shape[1] // 2].flatten().long()


def _order(routes: Tensor) -> Tensor:
    """Return the pairs, counted by token, in the order of their rows."""
    return torch.argsort(_numbers(routes), stable=True)
