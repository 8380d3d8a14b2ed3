# SPDX-License-Identifier: Apache-2.0
"""The naive reference of the batched layout: rows of each expert in its room, multiplied in a loop in torch."""

from dataclasses import replace

import torch
from torch import Tensor

from moe_lab.gpu.align import counted
from moe_lab.gpu.comm import Received
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts.torch_loop import product
from moe_lab.gpu.formats import AnyWeights, Quantised, dense, rounding
from moe_lab.gpu.kernels.activation import gated_activation_torch
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "naive: rows placed in [experts, tokens, K] with counts, a loop over experts in torch, fp32",
    "needs": ["torch", "triton"],
    "hardware": "any",
    "formats": ["fp32", "fp16", "bf16", "fp8_block"],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "inputs": ["batched"],
    "biases": True,
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
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x; computed in fp32. Waits for the device."""
    dtype, rounded = x.dtype, rounding(problem.format)
    x, topk_weights = place_weight(x.float(), topk_weights, problem, mark)
    with mark("dispatch"):
        rows, place, counts = _by_expert(rounded(x), topk_ids, problem.E)
    received = Received(rows, topk_ids, topk_weights, counts=counts, place=place)
    return batched(received, w13, w2, problem=problem, mark=mark, dtype=dtype)


def batched(
    received: Received,
    w13: AnyWeights,
    w2: AnyWeights,
    *,
    problem: MoEProblem,
    mark: Mark,
    dtype: torch.dtype,
) -> Tensor:
    """Return what the experts here make of each token, [tokens, K] in ``dtype``; see ``batched.batched``."""
    x, counts, place = received.x, received.counts, received.place
    assert counts is not None
    assert place is not None
    E, rounded = counts.numel(), rounding(problem.format)
    if isinstance(x, Quantised):  # scales have a dimension for the expert
        x = replace(x, values=x.values.view(E, -1, problem.K))
    rows = dense(x, torch.float32).view(E, -1, problem.K)
    out = torch.zeros_like(rows)
    for expert, count in enumerate(counts.tolist()):
        if not count:
            continue
        with mark("w13"):
            gate_up = product(rows[expert, :count], w13, expert)
        with mark("act"):
            hidden = rounded(gated_activation_torch(gate_up, problem.activation))
        with mark("w2"):
            out[expert, :count] = product(hidden, w2, expert)
    if received.topk_weights is None:
        return out.view(-1, problem.K).to(dtype)
    with mark("combine"):
        weights = received.topk_weights.where(received.topk_ids >= 0, 0)
        pairs = out.view(-1, problem.K)[place.clamp_min(0)].view(*weights.shape, problem.K)
        return (pairs * weights[..., None]).sum(1).to(dtype)


def _by_expert(x: Tensor, topk_ids: Tensor, E: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows [E * M, K], the row of each pair among [E * M], and the rows of each expert [E]."""
    M, topk = topk_ids.shape
    ids, order = topk_ids.flatten().long().sort(stable=True)
    counts = counted(topk_ids, E)
    first = (counts.cumsum(0) - counts)[ids]  # of the expert of each sorted pair
    place = torch.empty_like(ids)
    place[order] = ids * M + torch.arange(M * topk, device=ids.device) - first
    rows = x.new_zeros(E * M, x.shape[1])
    rows[place] = x.repeat_interleave(topk, 0)
    return rows, place, counts
