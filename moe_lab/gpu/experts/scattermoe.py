# SPDX-License-Identifier: Apache-2.0
"""ScatterMoE's parallel_linear: gather and scatter inside the grouped GEMMs, no padding in memory."""

import torch
from scattermoe.parallel_experts import parallel_linear
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "ScatterMoE parallel_linear; sort by torch, activation ours",
    "needs": ["torch", "triton", "scattermoe"],
    "install": "pip install git+https://github.com/shawntan/scattermoe.git",
    "hardware": "NVIDIA SM80+, AMD CDNA3+",
    "formats": ["fp16", "bf16"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "cuda_graph": True,
    "source": "https://github.com/shawntan/scattermoe, arXiv 2403.08245",
}


def experts(
    x: Tensor, w13: Tensor, w2: Tensor, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x."""
    if problem.M == 0:
        return torch.empty_like(x)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    with mark("align"):  # its own sort counts on the host, which no CUDA graph can capture
        ids, order = topk_ids.reshape(-1).long().sort(stable=True)
        ends = torch.searchsorted(ids, torch.arange(problem.E, device=x.device), right=True)
    sorted_pairs = (ids, order, ends)
    with mark("w13"):
        gate_up = parallel_linear(x, w13.transpose(1, 2), problem.topk, *sorted_pairs, grouped_out=True)
    with mark("act"):
        hidden = gated_activation(gate_up, problem.activation)
    with mark("w2+combine"):
        weights = topk_weights.to(x.dtype)
        y: Tensor = parallel_linear(hidden, w2.transpose(1, 2), 1, *sorted_pairs, grouped_in=True, gates=weights)
        return y
