"""Where the router weight goes: on what the experts return, or, in models such as llama-4, on what they get."""

import torch
from torch import Tensor

from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark


def place_weight(x: Tensor, topk_weights: Tensor, problem: MoEProblem, mark: Mark) -> tuple[Tensor, Tensor]:
    """Return x [M, K] and the weights [M, topk] that a backend gets which multiplies by weights at its end.

    Where the problem says that the weight multiplies the input, x is multiplied by it here (in fp32, rounded once to
    its dtype) in a stage of its own, and the weights are ones; else both come back as they are.

    Args:
        x: [M, K].
        topk_weights: [M, topk]; topk = 1 where the weight multiplies the input.
        problem: says which.
        mark: opens a range around the product.
    """
    if not problem.apply_router_weight_on_input:
        return x, topk_weights
    with mark("dispatch"):
        return (x * topk_weights).to(x.dtype), torch.ones_like(topk_weights)
