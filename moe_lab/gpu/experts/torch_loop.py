# SPDX-License-Identifier: Apache-2.0
"""The oracle: experts one by one in plain torch, accumulated in fp32 or fp64. Slow, and waits for the device."""

from collections.abc import Callable

import torch
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.formats import AnyWeights, apart, dense, rounding
from moe_lab.gpu.kernels.activation import gated_activation_torch
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "oracle: a loop over experts in torch, fp32 or fp64",
    "needs": ["torch", "triton"],
    "hardware": "any",
    "formats": [
        "fp32",
        "fp16",
        "bf16",
        "fp8_block",
        "fp8_tensor",
        "fp8_token",
        "int4_w4a16",
        "int4_w4a8",
        "int8",
        "int8_w8a16",
        "mxfp4",
        "mxfp4_w4a8",
        "nvfp4",
    ],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "biases": True,
    "share": True,
    "cuda_graph": False,
    "source": "moe_lab",
}


def experts(
    x: Tensor,
    w13: AnyWeights,
    w2: AnyWeights,
    topk_weights: Tensor,
    topk_ids: Tensor,
    *,
    problem: MoEProblem,
    mark: Mark,
    share: float = 1.0,
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x; fp16 and bf16 are computed in fp32.

    Pairs of the id -1 are left out, however many there are; ``share`` is only there since other backends need it.
    """
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    rounded = rounding(problem.format)
    y = moe(x, w13, w2, topk_weights, topk_ids, problem=problem, mark=mark, dtype=dtype, rounded=rounded)
    return y.to(x.dtype)


def moe(
    x: Tensor,
    w13: AnyWeights,
    w2: AnyWeights,
    topk_weights: Tensor,
    topk_ids: Tensor,
    *,
    problem: MoEProblem,
    mark: Mark,
    dtype: torch.dtype,
    rounded: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Compute the layer with every product, activation and sum in ``dtype``; return [M, K] of that dtype.

    ``dtype=torch.float64`` is the oracle: weights are dequantised, activations are not rounded. Of the problem only the
    activation and the place of the router weight matter.
    """
    x, topk_weights = place_weight(x.to(dtype), topk_weights.to(dtype), problem, mark)
    y, x = torch.zeros_like(x), rounded(x)
    places, kept = {}, []
    # Only experts that were hit, whose list the host has to wait for.
    for expert in topk_ids[topk_ids >= 0].unique().tolist():
        with mark("dispatch"):
            places[expert] = tokens, _ = (topk_ids == expert).nonzero(as_tuple=True)
            rows = x[tokens]
        with mark("w13"):
            gate_up = product(rows, w13, expert)
        with mark("act"):
            kept.append(gated_activation_torch(gate_up, problem.activation))
    if not kept:
        return y
    # All experts at once, since rows of several may share a scale.
    hidden = rounded(torch.cat(kept)).split([len(rows) for rows in kept])
    for (expert, (tokens, slots)), rows in zip(places.items(), hidden, strict=True):
        with mark("w2"):
            out = product(rows, w2, expert)
        with mark("combine"):
            y.index_add_(0, tokens, out * topk_weights[tokens, slots, None])
    return y


def product(rows: Tensor, w: AnyWeights, expert: int) -> Tensor:
    """Return rows [rows, in] times the weights of an expert, plus its bias, [rows, out]."""
    weights, bias = apart(w)
    y = rows @ dense(weights[expert], rows.dtype).T
    return y if bias is None else y + bias[expert].to(rows.dtype)
