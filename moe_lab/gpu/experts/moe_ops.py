# SPDX-License-Identifier: Apache-2.0
"""moe-ops' operators in Triton, made for training: permute by counting, grouped GEMM, unpermute; activation ours."""

import torch
from moe_ops import grouped_gemm, permute, unpermute
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "moe-ops: permute, grouped GEMM (TMA from SM90 on), unpermute; activation ours",
    "needs": ["torch", "triton", "moe_ops"],
    "install": "pip install moe-ops",
    "hardware": "NVIDIA SM80+",
    "formats": ["fp16", "bf16"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "multiple_of": 8,
    "cuda_graph": True,
    "source": "https://github.com/echogujy/moe_ops",
}


def experts(
    x: Tensor, w13: Tensor, w2: Tensor, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x. No host synchronisation.

    Raises:
        UserError: a number of experts that its permute cannot count.
    """
    if problem.E & problem.E - 1:
        raise UserError(f"moe_ops counts a power of two of experts, not {problem.E}; use the backend torch_grouped.")
    if problem.M == 0:
        return torch.empty_like(x)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    with mark("align+dispatch"):
        rows, place, bounds = permute(x, topk_ids, E=problem.E)
    with mark("w13"):
        gate_up = grouped_gemm(rows, w13, bounds)
    with mark("act"):
        hidden = gated_activation(gate_up, problem.activation)
    with mark("w2"):
        rows = grouped_gemm(hidden, w2, bounds)
    with mark("combine"):
        y: Tensor = unpermute(rows, place, topk_weights, problem.M, problem.topk)
        return y
