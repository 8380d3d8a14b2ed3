# SPDX-License-Identifier: Apache-2.0
"""Grouped GEMM by a fixed number of programs that process tile after tile; weights by TMA descriptors if available.

Unlike in ``fused_moe``, a program does not end with its tile, so the loads of the next one begin while the results of
the last are stored; the gated activation can be fused into the end of w13 (gate and up columns alternate, so that both
of a pair are in one thread); and rows can stay in sorted order between w13 and w2, which then need no gather. In
fp8_block gate and up rows have separate blocks, so a tile is two products: 128 gate columns and their 128 up columns.
The 128 hidden features are a whole group, and are stored in e4m3 with its scale.
"""

import torch
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.formats import AnyWeights, Quantised, Weights, apart
from moe_lab.gpu.kernels._device import check_device, dies
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.activation import activated, constants
from moe_lab.gpu.kernels.die import on_its_die
from moe_lab.gpu.kernels.quantise import GROUP, e4m3_of, parts, stored, stored_as
from moe_lab.gpu.kernels.scales import add_scaled, add_scaled_twice, scaled, scales_of_columns, scaling, swapped, whole
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.kernels.tma import described, has_tma
from moe_lab.gpu.kernels.widen import rows_of_weights, widened, widening
from moe_lab.gpu.kernels.widen_e4m3 import in_e4m3, scales_of_step


@jit
def grouped_persistent_gemm_kernel(
    x,  # [rows, gemm_k]; with TMA and without GATHER its descriptor
    w,  # [E * gemm_n, gemm_k], of 4 bits two a byte; with TMA its descriptor
    y,  # out
    y_scales,  # [rows, gemm_n / 256] fp32, out: y is e4m3, and a tile is two products; None = y is of the dtype
    topk_weights,  # [numel] fp32; any pointer when not SCALE
    x_scales,  # fp32, for e4m3 x, shaped by SCALES: [rows, ceil(gemm_k / 128)], [rows], [1] or None
    w_scales,  # fp32, for e4m3 w: [E, ceil(gemm_n / 128), ceil(gemm_k / 128)], [E, gemm_n], [E] or None
    w_zeros,  # this and the scales as ``widened`` takes them, if w is widened
    matrix_scales,  # [E] fp32, or None
    bias,  # [E, gemm_n] in the order of the rows of w, or None
    sorted_token_ids,  # [capacity] int32
    expert_ids,  # [tiles] int32
    num_tokens_post_padded,  # [1] int32
    numel,
    gemm_n,
    gemm_k,
    stride_y,
    PAIRS_PER_ROW: tl.constexpr,
    GATHER: tl.constexpr,  # x is gathered, by row pair // PAIRS_PER_ROW, and y is sorted; else x is sorted, y scattered
    ACTIVATION: tl.constexpr,  # see activation.constants
    MUL: tl.constexpr,  # columns alternate gate, up, and y has half of them
    SCALE: tl.constexpr,  # multiply each row by its router weight
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SCALES: tl.constexpr,  # see scales.scaling
    ACC: tl.constexpr,  # of sums: tl.int32 for products of int8, else tl.float32
    SWAP: tl.constexpr,  # with scales: multiply as y^T = w x^T, see scales.swapped
    WIDEN: tl.constexpr,  # what w is widened from, or "none"; with SCALES "groups" to e4m3, and x is ``dealt``
    GROUP: tl.constexpr,  # columns of w that share a scale, if it is widened
    DIES: tl.constexpr,  # among which programs are dealt in turn
    PACKED: tl.constexpr,  # see widen_e4m3.in_e4m3
):
    """Compute tiles [BLOCK_M, BLOCK_N] of the product: those numbered program, program + PROGRAMS, ..."""
    tiles_m = tl.load(num_tokens_post_padded) // BLOCK_M
    tiles_n = tl.cdiv(gemm_n, BLOCK_N) if y_scales is None else gemm_n // (2 * BLOCK_N)
    width = tl.cdiv(gemm_k, BLOCK_K) * BLOCK_K if SCALES == "groups" else gemm_k  # of rows of x
    for tile in tl.range(on_its_die(tl.program_id(0), PROGRAMS, DIES), tiles_m * tiles_n, PROGRAMS, flatten=TMA):
        group = tile // (GROUP_M * tiles_n)
        group_size = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
        within = tile - group * GROUP_M * tiles_n
        tile_m = group * GROUP_M + within % group_size
        tile_n = within // group_size

        sorted_row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        pair = tl.load(sorted_token_ids + sorted_row)
        valid = pair < numel
        expert = tl.load(expert_ids + tile_m)
        depth = tl.arange(0, BLOCK_K)
        column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        row = (tl.where(valid, pair // PAIRS_PER_ROW, 0) if GATHER else sorted_row).to(tl.int64)
        if SCALES == "block":  # BLOCK_K is 128, and the BLOCK_N columns are in one block of w
            groups = tl.cdiv(gemm_k, BLOCK_K)
            x_scale_at = x_scales + row * groups
            w_scale_at = w_scales + (expert * tl.cdiv(gemm_n, 128) + tile_n * BLOCK_N // 128) * groups
        if SCALES == "groups":  # a step loads the next one's scales
            w_rows = w_scales, expert, tile_n * BLOCK_N
            w_part = scales_of_step(*w_rows, 0, gemm_n, gemm_k, WIDEN, GROUP, BLOCK_N)
            x_part = scales_of_columns(x_scales, row, 0, tl.cdiv(gemm_k, BLOCK_K))
        acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), dtype=ACC)
        if y_scales is not None:
            up = tl.zeros_like(acc)
        for k in tl.range(0, gemm_k, BLOCK_K):
            if TMA and not GATHER:
                x_tile = x.load([tile_m * BLOCK_M, k])
            elif EVEN_K or SCALES == "groups":
                x_tile = tl.load(x + row[:, None] * width + k + depth[None, :])
            else:
                inside = k + depth[None, :] < gemm_k
                x_tile = tl.load(x + row[:, None] * width + k + depth[None, :], mask=inside, other=0.0)
            if WIDEN == "none":
                w_tile = rows_of_weights(w, expert, tile_n * BLOCK_N, k, gemm_n, gemm_k, TMA, EVEN_K, BLOCK_N, BLOCK_K)
            elif SCALES == "groups":
                w_tile, w_scale = in_e4m3(
                    *(w, w_part, expert, tile_n * BLOCK_N, k, gemm_n, gemm_k),
                    *(WIDEN, TMA, EVEN_K, BLOCK_N, PACKED),
                )
            else:
                w_tile = widened(
                    *(w, w_scales, w_zeros, expert, tile_n * BLOCK_N, k, gemm_n, gemm_k),
                    *(y.dtype.element_ty, WIDEN, GROUP, TMA, EVEN_K, BLOCK_N, BLOCK_K),
                )
            if SCALES == "block":
                x_scale = tl.load(x_scale_at + k // BLOCK_K)
                acc = add_scaled(acc, x_tile, w_tile, x_scale * tl.load(w_scale_at + k // BLOCK_K), SWAP)
                if y_scales is not None:
                    first = gemm_n // 2 + tile_n * BLOCK_N
                    w_tile = rows_of_weights(w, expert, first, k, gemm_n, gemm_k, TMA, EVEN_K, BLOCK_N, BLOCK_K)
                    w_scale = tl.load(w_scale_at + gemm_n // 256 * groups + k // BLOCK_K)
                    up = add_scaled(up, x_tile, w_tile, x_scale * w_scale, SWAP)
            elif SCALES == "groups":
                x_scale, next = whole(x_part), k + BLOCK_K
                w_part = scales_of_step(*w_rows, next, gemm_n, gemm_k, WIDEN, GROUP, BLOCK_N)
                x_part = scales_of_columns(x_scales, row, next // BLOCK_K, tl.cdiv(gemm_k, BLOCK_K))
                acc = add_scaled_twice(acc, x_tile, w_tile, x_scale, w_scale)
            elif SWAP:
                acc = tl.dot(w_tile, x_tile.T, acc, out_dtype=ACC)
            else:
                acc = tl.dot(x_tile, w_tile.T, acc, input_precision="ieee", out_dtype=ACC)

        if SWAP:
            acc = acc.T
        if SCALES == "token" or SCALES == "tensor" or SCALES == "channel":
            acc = scaled(acc, x_scales, w_scales, row, expert, column, gemm_n, valid, SCALES)
        if matrix_scales is not None:
            acc = acc * tl.load(matrix_scales + expert)
        if SCALE:
            weight = tl.load(topk_weights + pair, mask=valid, other=0.0)[:, None]
        if SCALE and GATHER:  # a factor of x, so a bias is not multiplied by it
            acc = acc * weight
        if bias is not None:
            bias_at = bias + expert * gemm_n + column
            acc = acc + tl.load(bias_at, mask=column < gemm_n, other=0.0).to(tl.float32)[None, :]
        if SCALE and not GATHER:
            acc = acc * weight
        to = sorted_row if GATHER else pair
        at = y + to.to(tl.int64)[:, None] * stride_y
        if y_scales is not None:
            if SWAP:
                up = up.T
            if SCALE:
                up = up * weight
            if bias is not None:
                up = up + tl.load(bias_at + gemm_n // 2).to(tl.float32)[None, :]
            numbers, scale = e4m3_of(activated(acc, up, ACTIVATION, MUL, ALPHA, LIMIT))
            tl.store(at + column[None, :], numbers.to(y.dtype.element_ty), mask=valid[:, None])
            tl.store(y_scales + to.to(tl.int64) * tiles_n + tile_n, scale, mask=valid)
        elif not MUL:
            if ACTIVATION != "none":
                acc = activated(acc, acc, ACTIVATION, MUL, ALPHA, LIMIT)
            tl.store(at + column[None, :], acc.to(y.dtype.element_ty), mask=valid[:, None] & (column[None, :] < gemm_n))
        else:
            gate, up = tl.split(tl.reshape(acc, [BLOCK_M, BLOCK_N // 2, 2]))
            half = tile_n * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)[None, :]
            result = activated(gate, up, ACTIVATION, MUL, ALPHA, LIMIT)
            tl.store(at + half, result.to(y.dtype.element_ty), mask=valid[:, None] & (half < gemm_n // 2))


def grouped_persistent_gemm(
    x: Weights,
    w: AnyWeights,
    alignment: Alignment,
    numel: int,
    *,
    tile: Tile,
    programs: int,
    pairs_per_row: int = 0,
    activation: str = "none",
    topk_weights: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Weights:
    """Return the product in ``dtype``, from gathered rows in sorted order, or from sorted rows in pair order.

    Args:
        x: with ``pairs_per_row`` [M, gemm_k], rows of tokens; else [capacity, gemm_k], rows in sorted order. fp32, fp16
            or bf16, contiguous, or as ``quantise`` gives them in the format of w.
        w: [E, gemm_n, gemm_k], dtype or format of x, or a format of weights alone; contiguous. A bias is added to each
            row of the product, before the activation.
        alignment: tiles of ``tile.block_m`` rows.
        numel: pairs, M * topk.
        tile: kernel configuration.
        programs: thread blocks that share the tiles.
        pairs_per_row: topk, to gather and return [capacity, columns] in sorted order (padding rows are not written);
            0, to return [numel, columns] in pair order.
        activation: ``none`` or one of ``ACTIVATIONS``; if gated, rows of w alternate gate, up; columns = gemm_n / 2.
            In fp8_block the gate rows of w come first, and the result is in that format; see ``holds_groups``.
        topk_weights: [numel] fp32, contiguous: each row is multiplied by its weight before the activation and before it
            is rounded; with ``pairs_per_row`` as a factor of x, so before a bias is added.
        dtype: dtype of the product; None = that of x.
    """
    given, bias = apart(w)
    (x, x_scales), (w, *beside) = parts(x), stored(given)
    check_device(x)
    scales, (_, gemm_n, gemm_k), gather = scaling(given), given.shape, pairs_per_row > 0
    acts = constants(activation)
    columns = gemm_n // 2 if acts["MUL"] else gemm_n
    rows = alignment.sorted_token_ids.numel() if gather else numel
    y_scales, kept = None, dtype or x.dtype
    if scales == "block" and activation != "none":
        kept = stored_as(x)
        y_scales = torch.empty((rows, columns // tile.block_n), dtype=torch.float32, device=x.device)
    y = torch.empty((rows, columns), dtype=kept, device=x.device)
    if numel == 0:
        return y if y_scales is None else Quantised("fp8_block", y.to(torch.float8_e4m3fn), y_scales)
    tma = has_tma(x, gemm_k) and has_tma(w, w.shape[2])
    factors = described(x, w, tile, gather) if tma else (x, w)
    grouped_persistent_gemm_kernel[(programs,)](
        *(*factors, y, y_scales, alignment.sorted_token_ids if topk_weights is None else topk_weights),
        *(x_scales, *beside, bias, *alignment, numel, gemm_n, gemm_k, columns),
        PAIRS_PER_ROW=max(1, pairs_per_row),
        GATHER=gather,
        SCALE=topk_weights is not None,
        TMA=tma,
        EVEN_K=gemm_k % tile.block_k == 0,
        **acts,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        GROUP_M=tile.group_m,
        PROGRAMS=programs,
        SCALES=scales,
        ACC=tl.int32 if x.dtype == torch.int8 else tl.float32,
        SWAP=swapped(tile, scales),
        **widening(given),
        DIES=dies(x.device),
        PACKED=x.is_cuda,
        **tile.options(),
    )
    return y if y_scales is None else Quantised("fp8_block", y.to(torch.float8_e4m3fn), y_scales)


def holds_groups(tile: Tile, N: int) -> bool:
    """Return whether a tile of w13 in fp8_block can end with activation and quantisation: it needs whole groups."""
    return tile.block_n == GROUP and N % GROUP == 0
