# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's CUTLASS fused MoE (from TensorRT-LLM); in fp8_block its grouped products are a DeepGEMM of its own."""

import torch
from flashinfer.fused_moe import cutlass_fused_moe
from torch import Tensor

from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import capability
from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels.quantise import parts
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "FlashInfer cutlass_fused_moe: one call for the whole layer",
    "needs": ["torch", "triton", "flashinfer"],
    "install": "pip install flashinfer-python",
    "tried": ["0.7.2.post1 in fp8_block"],
    "hardware": "NVIDIA SM89+ (fp8_block: SM90)",
    "formats": ["fp16", "bf16", "fp8_block"],
    "cpu_formats": [],
    "activations": ["silu"],
    "cuda_graph": True,
    "source": "https://github.com/flashinfer-ai/flashinfer",
}


def prepare(w13: Weights, w2: Weights) -> tuple[Weights, Weights]:
    """Return w13 with the up rows before the gate rows, as CUTLASS's epilogue expects them, and w2 as it is."""
    if isinstance(w13, Quantised):
        return Quantised(w13.format, _swapped(w13.values), _swapped(w13.scales)), w2
    return _swapped(w13), w2


def _swapped(halves: Tensor) -> Tensor:
    first, second = halves.chunk(2, dim=1)
    return torch.cat((second, first), dim=1)


def experts(
    x: Tensor, w13: Weights, w2: Weights, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x.

    Raises:
        UserError: sizes or a GPU that it does not take in fp8_block.
    """
    (first, first_scales), (second, second_scales) = parts(w13), parts(w2)
    scales = [one for one in (first_scales, second_scales) if one is not None]
    if scales:
        _check(problem)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    y = torch.empty_like(x)
    if problem.M:
        given = x, topk_ids.int(), topk_weights, first, second, x.dtype, scales
        with mark("align+w13+act+w2+combine"):  # one call of their library, which cannot be marked inside
            cutlass_fused_moe(*given, output=y, use_deepseek_fp8_block_scale=bool(scales))
    return y


def _check(problem: MoEProblem) -> None:
    if problem.K % 128 or problem.N % 128:
        raise UserError(
            f"flashinfer_cutlass takes K and N that are multiples of 128 in fp8_block, not {problem.K} and {problem.N}."
        )
    if capability()[0] != 9:
        raise UserError("flashinfer_cutlass takes fp8_block on compute capability 9.0 only; choose bf16 here.")
