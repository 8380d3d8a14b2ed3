# SPDX-License-Identifier: Apache-2.0
"""Where the router weight goes: on the experts' results or, in models such as llama-4, on their inputs."""

import torch
from torch import Tensor

from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark


def place_weight(x: Tensor, topk_weights: Tensor, problem: MoEProblem, mark: Mark) -> tuple[Tensor, Tensor]:
    """Return x [M, K] and weights [M, topk] for a backend that always multiplies by the weights at its end.

    If the problem says that the weight multiplies the input, x is multiplied here (in fp32, rounded once to its dtype),
    in a separate stage, and the weights are ones; else both are returned as they are.

    Args:
        x: [M, K].
        topk_weights: [M, topk]; topk = 1 if the weight multiplies the input.
        problem: says which it is.
        mark: opens a range around the product.
    """
    if not problem.apply_router_weight_on_input:
        return x, topk_weights
    with mark("dispatch"):
        return (x * topk_weights).to(x.dtype), torch.ones_like(topk_weights)
