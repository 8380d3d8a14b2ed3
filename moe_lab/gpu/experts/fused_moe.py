# SPDX-License-Identifier: Apache-2.0
"""Our version of the field's standard pipeline in Triton: align, gathered w13, activation, weighted w2, combine."""

import torch
from torch import Tensor

from moe_lab.gpu.experts._tuned import Tiles, align_of, choose, quantised_tile, tuned
from moe_lab.gpu.formats import AnyWeights, Weights
from moe_lab.gpu.kernels._device import check_contiguous
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.fused_moe import fused_moe_gemm
from moe_lab.gpu.kernels.quantise import parts, quantise
from moe_lab.gpu.kernels.scales import check_product
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "Triton: align, w13 GEMM gathering rows by expert tile, activation, w2 GEMM with router weights, combine",
    "needs": ["torch", "triton"],
    "hardware": "NVIDIA SM80+, AMD CDNA3+; the CPU under TRITON_INTERPRET=1 (fp32, fp16)",
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
    "cpu_formats": ["fp32", "fp16", "bf16"],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "biases": True,
    "align": "auto",
    "tile": True,
    "share": True,
    "cuda_graph": True,
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
    align: str = "auto",
    tile: Tiles | None = None,
    share: float = 1.0,
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x, see ``moe_lab.gpu.experts``; topk_ids may be int64.

    ``align`` names an align plugin. ``tile`` is one configuration for both GEMMs, or one each for w13 and w2, whose
    stages are reduced to fit; None = ``tiles``. With a ``share`` below 1, ids may be -1.

    Raises:
        UserError: a dtype or format that the kernels or the GPU do not support, an input that is not contiguous, or an
            unknown align plugin.
    """
    check_contiguous(x=x, w13=parts(w13)[0], w2=parts(w2)[0], topk_weights=topk_weights, topk_ids=topk_ids)
    if x.dtype not in DTYPES.values():
        raise UserError(f"fused_moe has no {problem.dtype} kernels; choose fp32, fp16 or bf16.")
    align_pairs, pairs = align_of(align), problem.rows_useful
    gemm13, gemm2 = tiles(problem, x.device, tile)
    # A factor of x may as well multiply its product with w13.
    weights13, weights2 = (topk_weights, None) if problem.apply_router_weight_on_input else (None, topk_weights)
    tokens: Weights = x
    if quantised := bool(formats.get(problem.format).activation_block):
        check_product(problem.format, x.device)
        with mark("quant"):
            tokens = quantise(x, format=problem.format)
    with mark("align"):
        alignment = align_pairs(topk_ids, gemm13.block_m, problem.E)
    with mark("w13"):
        gate_up = fused_moe_gemm(
            *(tokens, w13, alignment, pairs),
            pairs_per_row=problem.topk,
            tile=gemm13,
            topk_weights=weights13,
            on_input=True,
            dtype=x.dtype,
        )
    with mark("act+quant" if quantised else "act"):
        hidden: Weights = (
            quantise(gate_up, problem.activation, format=problem.format)
            if quantised
            else gated_activation(gate_up, problem.activation)
        )
    with mark("w2"):
        rows = fused_moe_gemm(
            hidden, w2, alignment, pairs, pairs_per_row=1, tile=gemm2, topk_weights=weights2, dtype=x.dtype
        )
    with mark("combine"):
        return combine(rows, problem.topk, topk_ids=topk_ids if share < 1 else None)


def block_m(problem: MoEProblem) -> int:
    """Return the rows of a tile, to a multiple of which an expert's rows are padded: tuned, or near their mean."""
    return (tuned("fused_moe", problem) or (_default_tile(problem),))[0].block_m


def tiles(problem: MoEProblem, device: torch.device, tile: Tiles | None = None) -> tuple[Tile, Tile]:
    """Return the tiles of the w13 and the w2 GEMM, given, tuned or our own; both have the same block_m."""
    return choose("fused_moe", problem, device, tile, _default_tile(problem))


def _default_tile(problem: MoEProblem) -> Tile:
    if formats.get(problem.format).quantised:
        return quantised_tile(problem)
    mean_rows = problem.rows_useful / problem.E
    rows = 16 if mean_rows <= 8 else 32 if mean_rows <= 24 else 64 if mean_rows <= 96 else 128
    if problem.dtype == "fp32":
        return Tile(rows, 64, 32, 1 if rows <= 32 else 8, 4, 3)
    return {
        16: Tile(16, 64, 128, 1, 4, 4),
        32: Tile(32, 64, 128, 1, 4, 4),
        64: Tile(64, 128, 64, 8, 4, 4),
        128: Tile(128, 256, 64, 8, 8, 3),
    }[rows]
