# SPDX-License-Identifier: Apache-2.0
"""SonicMoE's inference path: grouped GEMMs in CuTe DSL with fused gather and SwiGLU."""

import torch
from sonicmoe.enums import ActivationType
from sonicmoe.functional import moe_general_routing_inputs
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "SonicMoE moe_general_routing_inputs: gathered grouped GEMMs with fused SwiGLU",
    "needs": ["torch", "sonicmoe"],
    "install": "pip install git+https://github.com/Dao-AILab/sonic-moe.git",
    "hardware": "NVIDIA SM90, SM100",
    "formats": ["bf16"],
    "cpu_formats": [],
    "activations": ["silu"],
    "cuda_graph": True,
    "source": "https://github.com/Dao-AILab/sonic-moe, arXiv 2512.14080",
}


def prepare(w13: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Return w13 [2N, K, E] with gate and up rows interleaved, and w2 [K, N, E], both views of expert-major memory."""
    E, rows, K = w13.shape
    interleaved = w13.view(E, 2, rows // 2, K).transpose(1, 2).reshape(E, rows, K)
    return interleaved.permute(1, 2, 0), w2.contiguous().permute(1, 2, 0)


def experts(
    x: Tensor, w13: Tensor, w2: Tensor, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in bf16."""
    if problem.M == 0:
        return torch.empty_like(x)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    with mark("align+w13+act+w2+combine"):
        token = torch.arange(problem.M, device=x.device, dtype=torch.int32).repeat_interleave(problem.topk)
        pairs = (topk_weights.reshape(-1), token, topk_ids.reshape(-1).int())
        stream = torch.cuda.current_stream().cuda_stream
        kind = ActivationType.SWIGLU
        y: Tensor = moe_general_routing_inputs(x, *pairs, w13, None, w2, None, problem.E, stream, kind, True)[0]
        return y
