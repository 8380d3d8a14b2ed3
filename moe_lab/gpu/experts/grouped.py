# SPDX-License-Identifier: Apache-2.0
"""Our own pipeline for Hopper: persistent GEMMs, weights by TMA, the activation at the end of w13, then sorted rows.

On other GPUs the same kernels load through pointers.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from moe_lab.gpu.experts._tuned import Tiles, align_of, choose, quantised_tile, tuned
from moe_lab.gpu.formats import AnyWeights, Quantised, Weights, apart
from moe_lab.gpu.kernels._device import check_contiguous, multiprocessors
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.grouped import grouped_persistent_gemm, holds_groups
from moe_lab.gpu.kernels.quantise import parts, quantise
from moe_lab.gpu.kernels.scales import check_product, scaling
from moe_lab.gpu.kernels.tile import Tile, fit
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem, has_gate
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "Triton: align, persistent w13 GEMM with the activation, persistent w2 GEMM on sorted rows, combine",
    "needs": ["torch", "triton"],
    "hardware": "NVIDIA SM90+ (TMA), else through pointers; the CPU under TRITON_INTERPRET=1 (fp32, fp16)",
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
    "cuda_graph": True,
    "source": "moe_lab",
}


def prepare(w13: AnyWeights, w2: AnyWeights) -> tuple[AnyWeights, AnyWeights]:
    """Return w13 [E, 2N, K] with gate and up rows alternating, and w2 as it is; both contiguous.

    Without a gate both stay as they are, and in fp8_block, where blocks of 128 rows share a scale. Scales and biases of
    rows alternate with them.
    """
    if w13.shape[1] == w2.shape[2]:  # no gate
        return w13, w2
    plain, _ = apart(w13)
    if isinstance(plain, Quantised) and plain.format == "fp8_block":
        return w13, w2
    return _each(w13, _alternating), _each(w2, Tensor.contiguous)


def _each(w: AnyWeights, change: Callable[[Tensor], Tensor]) -> AnyWeights:
    return change(w) if isinstance(w, Tensor) else w.each(change)


def _alternating(rows: Tensor) -> Tensor:
    """Return gate rows then up rows [E, 2N, columns] as gate, up, gate, up, ...; a single row as it is."""
    E, count, columns = rows.shape
    if count == 1:
        return rows
    return rows.view(E, 2, count // 2, columns).transpose(1, 2).reshape(E, count, columns).contiguous()


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
    fuse: bool = True,
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x, see ``moe_lab.gpu.experts``; topk_ids may be int64.

    ``align`` names an align plugin. ``tile`` is one configuration for both GEMMs, or one each for w13 and w2, whose
    stages are reduced to fit; None = ``tiles``. ``fuse``: whether in fp8_block w13 ends with activation and
    quantisation if its tile holds whole groups; otherwise they are a separate launch.

    Raises:
        UserError: a dtype or format that the kernels or the GPU do not support, an input that is not contiguous, or an
            unknown align plugin.
    """
    check_contiguous(x=x, w13=parts(w13)[0], w2=parts(w2)[0], topk_weights=topk_weights, topk_ids=topk_ids)
    if x.dtype not in DTYPES.values():
        raise UserError(f"grouped has no {problem.dtype} kernels; choose fp32, fp16 or bf16.")
    align_pairs, pairs = align_of(align), problem.rows_useful
    gemm13, gemm2 = tiles(problem, x.device, tile)
    # A factor of x may as well multiply its product with w13.
    weights13, weights2 = (topk_weights, None) if problem.apply_router_weight_on_input else (None, topk_weights)
    # Programs are persistent: as many as fit at once, which is two of small tiles on a multiprocessor; of four bits in
    # e4m3, which take little shared memory, as many as their registers allow.
    if scaling(apart(w13)[0]) == "groups":
        each = 1 if gemm13.num_warps > 4 else 2 if gemm13.block_m >= 32 else 3
    else:
        each = 1 if gemm13.block_m >= 64 else 2
    programs = multiprocessors(x.device) * each
    tokens: Weights = x
    if quantised := bool(formats.get(problem.format).activation_block):
        check_product(problem.format, x.device)
        with mark("quant"):
            tokens = quantise(x, format=problem.format)
    with mark("align"):
        alignment = align_pairs(topk_ids, gemm13.block_m, problem.E)
    gemm = partial(grouped_persistent_gemm, alignment=alignment, numel=pairs, programs=programs, dtype=x.dtype)
    blocks = problem.format == "fp8_block"
    fused = blocks and fuse and holds_groups(gemm13, problem.N) and has_gate(problem.activation)
    with mark("w13+act+quant" if fused else "w13" if blocks else "w13+act"):
        hidden = gemm(
            *(tokens, w13),
            tile=_two_products(gemm13, x.device) if fused else gemm13,
            pairs_per_row=problem.topk,
            activation="none" if blocks and not fused else problem.activation,
            topk_weights=weights13,
        )
    if quantised and not fused:
        with mark("act+quant" if blocks else "quant"):
            hidden = quantise(
                *(parts(hidden)[0], problem.activation if blocks else "none", alignment.sorted_token_ids, pairs),
                padded=alignment.num_tokens_post_padded,
                format=problem.format,
            )
    with mark("w2"):
        rows, _ = parts(gemm(hidden, w2, tile=gemm2, topk_weights=weights2))
    with mark("combine"):
        return combine(rows, problem.topk)


def block_m(problem: MoEProblem) -> int:
    """Return the rows of a tile, to a multiple of which an expert's rows are padded."""
    return (tuned("grouped", problem) or (_default_tile(problem),))[0].block_m


def tiles(problem: MoEProblem, device: torch.device, tile: Tiles | None = None) -> tuple[Tile, Tile]:
    """Return the tiles of the w13 and the w2 GEMM, given, tuned or our own; both have the same block_m."""
    return choose("grouped", problem, device, tile, _default_tile(problem))


def _two_products(tile: Tile, device: torch.device) -> Tile:
    """Return a tile of w13 for gate and up at once: it holds twice the weights, so fewer stages fit."""
    stages = fit(replace(tile, block_n=2 * tile.block_n), 1, device).num_stages
    # Two accumulators: with many rows, twice the warps keep them in registers.
    return replace(tile, num_stages=stages, num_warps=8 if tile.block_m >= 64 else tile.num_warps)


def _default_tile(problem: MoEProblem) -> Tile:
    """Return a tile by the mean rows of an expert; not measured yet."""
    if formats.get(problem.format).quantised:
        return quantised_tile(problem)
    if problem.dtype == "fp32":
        return Tile(32, 64, 32, 1, 4, 2)
    mean_rows = problem.rows_useful / problem.E
    if mean_rows <= 8:
        return Tile(16, 128, 128, 1, 4, 3)
    if mean_rows <= 24:
        return Tile(32, 128, 128, 1, 4, 3)
    if mean_rows <= 96:
        return Tile(64, 256, 64, 8, 8, 4)
    return Tile(128, 256, 64, 8, 8, 3)
