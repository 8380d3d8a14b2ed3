# SPDX-License-Identifier: Apache-2.0
"""Grouped GEMM in the batched layout: every expert has room for as many rows, and a count says how many it has.

Rows come from an all-to-all in that layout (DeepEP's low-latency one, for example), or from ``padded_rows.masked`` and
``place_rows``. There is nothing to sort or to gather: a program takes the row tiles of one expert, one after another.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.formats import AnyWeights, Weights, apart
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.quantise import parts
from moe_lab.gpu.kernels.scales import add_scaled, scaling, swapped
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.kernels.widen import rows_of_weights
from moe_lab.spec.errors import UserError

PROGRAMS = 4  # of an expert and its columns: more would only help an expert with many more rows than the others


@jit
def batched_gemm_kernel(
    x,  # [E * room, gemm_k]
    w,  # [E, gemm_n, gemm_k]
    y,  # [E * room, gemm_n], out
    x_scales,  # [E, ceil(gemm_k / 128), room] fp32, or None
    w_scales,  # [E, ceil(gemm_n / 128), ceil(gemm_k / 128)] fp32, or None
    bias,  # [E, gemm_n], or None
    counts,  # [E] int32, rows of each expert
    room,
    gemm_n,
    gemm_k,
    EVEN_K: tl.constexpr,
    SCALES: tl.constexpr,  # "block" or "none", see scales.scaling
    SWAP: tl.constexpr,  # with scales: multiply as y^T = w x^T, see scales.swapped
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Compute BLOCK_N columns of one expert's row tiles: those numbered program, program + PROGRAMS, ..."""
    tile_n, expert = tl.program_id(0), tl.program_id(1).to(tl.int64)
    count = tl.load(counts + expert)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    groups = tl.cdiv(gemm_k, 128)
    for tile_m in tl.range(tl.program_id(2), tl.cdiv(count, BLOCK_M), PROGRAMS):
        own = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)  # within the expert's room
        valid = own < count
        row = expert * room + own
        acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in tl.range(0, gemm_k, BLOCK_K):
            mask = valid[:, None] if EVEN_K else valid[:, None] & (k + depth[None, :] < gemm_k)
            x_tile = tl.load(x + row[:, None] * gemm_k + k + depth[None, :], mask=mask, other=0.0)
            w_tile = rows_of_weights(w, expert, tile_n * BLOCK_N, k, gemm_n, gemm_k, False, EVEN_K, BLOCK_N, BLOCK_K)
            if SCALES == "block":  # BLOCK_K is 128, and the BLOCK_N columns are in one block of w
                step = k // BLOCK_K
                scale = tl.load(x_scales + (expert * groups + step) * room + own, mask=valid, other=0.0)
                block = expert * tl.cdiv(gemm_n, 128) + tile_n * BLOCK_N // 128
                acc = add_scaled(acc, x_tile, w_tile, scale * tl.load(w_scales + block * groups + step), SWAP)
            else:
                acc = tl.dot(x_tile, w_tile.T, acc, input_precision="ieee")
        if SWAP:
            acc = acc.T
        if bias is not None:
            added = tl.load(bias + expert * gemm_n + column, mask=column < gemm_n, other=0.0)
            acc = acc + added.to(tl.float32)[None, :]
        at = y + row[:, None] * gemm_n + column[None, :]
        tl.store(at, acc.to(y.dtype.element_ty), mask=valid[:, None] & (column[None, :] < gemm_n))


def batched_gemm(x: Weights, w: AnyWeights, counts: Tensor, *, tile: Tile, dtype: torch.dtype) -> Tensor:
    """Return y [E * room, gemm_n] in ``dtype``: the first rows of each expert's room times its weights, plus its bias.

    Args:
        x: [E * room, gemm_k] fp32, fp16 or bf16, contiguous, or in fp8_block as ``place_rows`` gives it. Rows of a room
            from the count on are neither read nor written.
        w: [E, gemm_n, gemm_k] of the dtype or the format of x, contiguous.
        counts: [E] int32, at most the room.
        tile: kernel configuration; its group_m does not matter.
        dtype: of y.

    Raises:
        UserError: a format other than fp8_block, or a tile that spans several blocks of weights.
    """
    plain, bias = apart(w)
    (values, x_scales), (weights, w_scales) = parts(x), parts(plain)
    check_device(values)
    if (scales := scaling(plain)) not in ("none", "block"):
        raise UserError("The batched kernel takes plain numbers or fp8_block.")
    E, gemm_n, gemm_k = plain.shape
    room = len(values) // E
    y = torch.empty((len(values), gemm_n), dtype=dtype, device=values.device)
    programs = min(PROGRAMS, triton.cdiv(room, tile.block_m))
    if not programs:
        return y
    batched_gemm_kernel[(triton.cdiv(gemm_n, tile.block_n), E, programs)](
        *(values, weights, y, x_scales, w_scales, bias, counts, room, gemm_n, gemm_k),
        EVEN_K=gemm_k % tile.block_k == 0,
        SCALES=scales,
        SWAP=swapped(tile, scales),
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        PROGRAMS=programs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return y
