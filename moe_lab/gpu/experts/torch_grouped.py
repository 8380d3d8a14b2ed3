# SPDX-License-Identifier: Apache-2.0
"""PyTorch's grouped GEMM (CUTLASS on Hopper): sort pairs by expert, gather, two grouped products, unsort, sum."""

import torch
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.kernels.activation import gated_activation_torch
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "torch grouped_mm on rows gathered by expert; every other stage in plain torch",
    "needs": ["torch", "triton"],
    "hardware": "NVIDIA SM90+; the CPU with torch 2.10+",
    "formats": ["bf16"],
    "cpu_formats": ["fp32", "fp16", "bf16"],
    "multiple_of": 8,
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "cuda_graph": True,
    "source": "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.grouped_mm.html",
}


def experts(
    x: Tensor, w13: Tensor, w2: Tensor, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x. No host synchronisation on a GPU.

    Raises:
        UserError: hardware, torch version, dtype or sizes that grouped_mm does not take.
    """
    check(x, problem)
    if problem.M == 0:
        return torch.empty_like(x)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    with mark("align"):
        ids, order = topk_ids.reshape(-1).sort(stable=True)
        ends = torch.searchsorted(
            ids, torch.arange(problem.E, device=x.device, dtype=ids.dtype), right=True, out_int32=True
        )
    with mark("dispatch"):
        rows = x[order // problem.topk]
    with mark("w13"):
        gate_up = grouped_mm(rows, w13.transpose(1, 2), ends)
    with mark("act"):
        hidden = gated_activation_torch(gate_up, problem.activation)
    with mark("w2"):
        rows = grouped_mm(hidden, w2.transpose(1, 2), ends)
    with mark("combine"):
        pairs = torch.empty_like(rows)
        pairs[order] = (rows * topk_weights.reshape(-1)[order, None]).to(x.dtype)
        return pairs.view(problem.M, problem.topk, problem.K).sum(dim=1)


def grouped_mm(rows: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Return [rows, n]: rows [rows, k] times w [E, k, n]; the rows of group e end before ends[e] (int32)."""
    # Before torch 2.10 it was private.
    product = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    result: Tensor = product(rows, w, offs=ends)
    return result


def check(x: Tensor, problem: MoEProblem) -> None:
    """Raise UserError for what grouped_mm cannot do here, with what to use instead."""
    if problem.K % 8 or problem.N % 8:
        raise UserError(
            f"torch_grouped needs multiples of 8, got K={problem.K} N={problem.N}; use the backend fused_moe."
        )
    if not x.is_cuda:
        if not hasattr(torch.nn.functional, "grouped_mm"):
            raise UserError("torch_grouped runs on the CPU from torch 2.10; use the backend torch_loop.")
        return
    if torch.version.hip is not None or torch.cuda.get_device_capability(x.device)[0] < 9:
        raise UserError(
            "torch_grouped needs an NVIDIA GPU of compute capability 9.0 or newer; use the backend fused_moe."
        )
    if x.dtype != torch.bfloat16:
        raise UserError(f"torch_grouped takes bf16 on a GPU, not {problem.dtype}; use bf16 or the backend fused_moe.")
