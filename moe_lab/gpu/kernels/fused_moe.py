# SPDX-License-Identifier: Apache-2.0
"""Grouped GEMM over gathered rows: y[pair] = x[pair // pairs_per_row] @ w[expert of pair]^T, one expert per tile.

The rows of a tile come from ``sorted_token_ids`` (see ``moe_lab.gpu.align.Alignment``). Tiles past
num_tokens_post_padded return at once, so the grid can be an upper bound and the host never waits for the device.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.formats import AnyWeights, Weights, apart
from moe_lab.gpu.kernels._device import check_device, dies
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.die import on_its_die
from moe_lab.gpu.kernels.quantise import parts, stored
from moe_lab.gpu.kernels.scales import add_scaled, add_scaled_twice, scaled, scales_of_columns, scaling, swapped, whole
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.kernels.widen import widened, widening
from moe_lab.gpu.kernels.widen_e4m3 import in_e4m3, scales_of_step


@jit
def fused_moe_gemm_kernel(
    x,  # [rows, gemm_k]
    w,  # [E, gemm_n, gemm_k], of 4 bits two a byte
    y,  # [numel, gemm_n], out
    topk_weights,  # [numel] fp32; any pointer when not SCALE
    x_scales,  # fp32, for e4m3 x, shaped by SCALES: [rows, ceil(gemm_k / 128)], [rows], [1] or None
    w_scales,  # fp32, for e4m3 w: [E, ceil(gemm_n / 128), ceil(gemm_k / 128)], [E, gemm_n], [E] or None
    w_zeros,  # this and the scales as ``widened`` takes them, if w is widened
    matrix_scales,  # [E] fp32, or None
    bias,  # [E, gemm_n], or None
    sorted_token_ids,  # [capacity] int32
    expert_ids,  # [tiles] int32
    num_tokens_post_padded,  # [1] int32
    numel,
    gemm_n,
    gemm_k,
    stride_x,
    stride_we,
    stride_wn,
    stride_y,
    PAIRS_PER_ROW: tl.constexpr,
    SCALE: tl.constexpr,  # multiply by the router weight: a row of x ("x"), a row of y ("y"), or "none"
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SCALES: tl.constexpr,  # see scales.scaling
    ACC: tl.constexpr,  # of sums: tl.int32 for products of int8, else tl.float32
    SWAP: tl.constexpr,  # with scales: multiply as y^T = w x^T, see scales.swapped
    WIDEN: tl.constexpr,  # what w is widened from, or "none"; with SCALES "groups" to e4m3, and x is ``dealt``
    GROUP: tl.constexpr,  # columns of w that share a scale, if it is widened
    DIES: tl.constexpr,  # among which programs are dealt in turn
    PACKED: tl.constexpr,  # see widen_e4m3.in_e4m3
):
    """Compute one [BLOCK_M, BLOCK_N] tile of y."""
    pid = tl.program_id(0)
    tiles_m = tl.load(num_tokens_post_padded) // BLOCK_M
    tiles_n = tl.cdiv(gemm_n, BLOCK_N)
    if pid >= tiles_m * tiles_n:
        return
    pid = on_its_die(pid, tiles_m * tiles_n, DIES)
    group = pid // (GROUP_M * tiles_n)
    group_size = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    within = pid - group * GROUP_M * tiles_n
    tile_m = group * GROUP_M + within % group_size
    tile_n = within // group_size

    pair = tl.load(sorted_token_ids + tile_m * BLOCK_M + tl.arange(0, BLOCK_M))
    valid = pair < numel
    # int64: rows * gemm_k and expert * gemm_n * gemm_k exceed 2**31 elements for large M and DeepSeek-V3's weights.
    row = (pair // PAIRS_PER_ROW).to(tl.int64)
    expert = tl.load(expert_ids + tile_m).to(tl.int64)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    x_at = x + row[:, None] * stride_x + depth[None, :]  # [BLOCK_M, BLOCK_K]
    w_at = w + expert * stride_we + column[None, :] * stride_wn + depth[:, None]  # [BLOCK_K, BLOCK_N]

    if SCALES == "block":  # BLOCK_K is 128, and the BLOCK_N columns are in one block of w
        groups = tl.cdiv(gemm_k, BLOCK_K)
        x_scale_at = x_scales + row * groups
        w_scale_at = w_scales + (expert * tl.cdiv(gemm_n, 128) + tile_n * BLOCK_N // 128) * groups
    if SCALES == "groups":  # a step loads the next one's scales
        x_row, w_rows = tl.where(valid, row, 0), (w_scales, expert, tile_n * BLOCK_N)
        w_part = scales_of_step(*w_rows, 0, gemm_n, gemm_k, WIDEN, GROUP, BLOCK_N)
        x_part = scales_of_columns(x_scales, x_row, 0, tl.cdiv(gemm_k, BLOCK_K))
    acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), dtype=ACC)
    for k in tl.range(0, gemm_k, BLOCK_K):
        x_mask = valid[:, None]
        if not EVEN_K and SCALES != "groups":
            x_mask = x_mask & (k + depth[None, :] < gemm_k)
        if SCALES == "groups":
            w_tile, w_scale = in_e4m3(
                *(w, w_part, expert, tile_n * BLOCK_N, k, gemm_n, gemm_k),
                *(WIDEN, False, EVEN_K, BLOCK_N, PACKED),
            )
            x_scale, next = whole(x_part), k + BLOCK_K
            w_part = scales_of_step(*w_rows, next, gemm_n, gemm_k, WIDEN, GROUP, BLOCK_N)
            x_part = scales_of_columns(x_scales, x_row, next // BLOCK_K, tl.cdiv(gemm_k, BLOCK_K))
        elif WIDEN != "none":
            w_tile = widened(
                *(w, w_scales, w_zeros, expert, tile_n * BLOCK_N, k, gemm_n, gemm_k),
                *(y.dtype.element_ty, WIDEN, GROUP, False, EVEN_K, BLOCK_N, BLOCK_K),
            ).T
        elif EVEN_K and EVEN_N:
            w_tile = tl.load(w_at)
        elif EVEN_K:
            w_tile = tl.load(w_at, mask=column[None, :] < gemm_n, other=0.0)
        else:
            w_tile = tl.load(w_at, mask=(column[None, :] < gemm_n) & (k + depth[:, None] < gemm_k), other=0.0)
        x_tile = tl.load(x_at, mask=x_mask, other=0.0)
        if SCALES == "block":
            scale = tl.load(x_scale_at + k // BLOCK_K, mask=valid, other=0.0) * tl.load(w_scale_at + k // BLOCK_K)
            acc = add_scaled(acc, x_tile, w_tile.T, scale, SWAP)
        elif SCALES == "groups":
            acc = add_scaled_twice(acc, x_tile, w_tile, x_scale, w_scale)
        elif SWAP:
            acc = tl.dot(w_tile.T, x_tile.T, acc, out_dtype=ACC)
        else:
            acc = tl.dot(x_tile, w_tile, acc, input_precision="ieee", out_dtype=ACC)
        x_at += BLOCK_K
        w_at += BLOCK_K

    if SWAP:
        acc = acc.T
    if SCALES == "token" or SCALES == "tensor" or SCALES == "channel":
        acc = scaled(acc, x_scales, w_scales, row, expert, column, gemm_n, valid, SCALES)
    if matrix_scales is not None:
        acc = acc * tl.load(matrix_scales + expert)
    if SCALE != "none":
        weight = tl.load(topk_weights + pair, mask=valid, other=0.0)[:, None]
    if SCALE == "x":
        acc = acc * weight
    if bias is not None:
        acc = acc + tl.load(bias + expert * gemm_n + column, mask=column < gemm_n, other=0.0).to(tl.float32)[None, :]
    if SCALE == "y":
        acc = acc * weight
    y_at = y + pair.to(tl.int64)[:, None] * stride_y + column[None, :]
    y_mask = valid[:, None]
    if not EVEN_N:
        y_mask = y_mask & (column[None, :] < gemm_n)
    tl.store(y_at, acc.to(y.dtype.element_ty), mask=y_mask)


def fused_moe_gemm(
    x: Weights,
    w: AnyWeights,
    alignment: Alignment,
    numel: int,
    *,
    pairs_per_row: int,
    tile: Tile,
    topk_weights: Tensor | None = None,
    on_input: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return y [numel, gemm_n] in ``dtype``, in pair order.

    Args:
        x: [numel / pairs_per_row, gemm_k] fp32, fp16 or bf16 with contiguous rows, or as ``quantise`` gives it in the
            format of w.
        w: [E, gemm_n, gemm_k], dtype or format of x, contiguous along gemm_k; or in a format of weights alone. A
            bias is added to each row of y.
        alignment: tiles of ``tile.block_m`` rows.
        numel: pairs, M * topk.
        pairs_per_row: pairs that read the same row of x: topk for w13, 1 for w2.
        tile: kernel configuration.
        topk_weights: [numel] fp32, contiguous; if given, each row is multiplied by its weight before rounding.
        on_input: whether that is a factor of x, so that a bias is not multiplied by it.
        dtype: dtype of y; None = that of x.
    """
    given, bias = apart(w)
    (x, x_scales), (w, *beside) = parts(x), stored(given)
    check_device(x)
    scales, (_, gemm_n, gemm_k) = scaling(given), given.shape
    y = torch.empty((numel, gemm_n), dtype=dtype or x.dtype, device=x.device)
    tiles_m = alignment.sorted_token_ids.numel() // tile.block_m
    if tiles_m == 0:
        return y
    blocks = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "GROUP_M": tile.group_m}
    even = {"EVEN_N": gemm_n % tile.block_n == 0, "EVEN_K": gemm_k % tile.block_k == 0}
    strides = x.stride(0), w.stride(0), w.stride(1), y.stride(0)
    weights = alignment.sorted_token_ids if topk_weights is None else topk_weights
    fused_moe_gemm_kernel[(tiles_m * triton.cdiv(gemm_n, tile.block_n),)](
        *(x, w, y, weights, x_scales, *beside, bias, *alignment, numel, gemm_n, gemm_k, *strides),
        PAIRS_PER_ROW=pairs_per_row,
        SCALE="none" if topk_weights is None else "x" if on_input else "y",
        SCALES=scales,
        ACC=tl.int32 if x.dtype == torch.int8 else tl.float32,
        SWAP=swapped(tile, scales),
        **widening(given),
        DIES=dies(x.device),
        PACKED=x.is_cuda,
        **tile.options(),
        **even,
        **blocks,
    )
    return y
