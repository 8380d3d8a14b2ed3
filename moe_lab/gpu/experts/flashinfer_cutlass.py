"""FlashInfer's CUTLASS fused MoE (from TensorRT-LLM)."""

import torch
from flashinfer.fused_moe import cutlass_fused_moe
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "FlashInfer cutlass_fused_moe: one call for the whole layer",
    "needs": ["torch", "flashinfer"],
    "install": "pip install flashinfer-python",
    "hardware": "NVIDIA SM89+",
    "formats": ["fp16", "bf16"],
    "cpu_formats": [],
    "activations": ["silu"],
    "cuda_graph": True,
    "source": "https://github.com/flashinfer-ai/flashinfer",
}


def prepare(w13: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Return w13 with the up rows before the gate rows, as CUTLASS's epilogue expects them, and w2 as it is."""
    gate, up = w13.chunk(2, dim=1)
    return torch.cat((up, gate), dim=1), w2


def experts(
    x: Tensor, w13: Tensor, w2: Tensor, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x."""
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    y = torch.empty_like(x)
    if problem.M:
        with mark("align+w13+act+w2+combine"):  # one call of their library, which cannot be marked inside
            cutlass_fused_moe(x, topk_ids.int(), topk_weights, w13, w2, x.dtype, quant_scales=[], output=y)
    return y
