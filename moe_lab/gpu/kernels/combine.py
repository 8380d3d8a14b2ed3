# SPDX-License-Identifier: Apache-2.0
"""Combine: sum over the topk rows of each token in fp32, with or without weights."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit


@jit
def combine_kernel(
    rows,  # [M * TOPK, K]; with place any number of rows
    y,  # [M, K], out
    topk_weights,  # [M * TOPK] fp32; any pointer when not SCALE
    place,  # [M * TOPK] int32, the row of each pair; None = pair order
    topk_ids,  # [M * TOPK], negative where a pair has no row; None = all have one
    K,
    SCALE: tl.constexpr,
    TOPK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sum BLOCK_K columns of one token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = column < K
    acc = tl.zeros((BLOCK_K,), dtype=tl.float32)
    for slot in tl.static_range(TOPK):
        row_of = token * TOPK + slot
        if place is not None:
            row_of = tl.load(place + row_of).to(tl.int64)
        at = rows + row_of * K + column
        here = mask
        if topk_ids is not None:
            here = mask & (tl.load(topk_ids + token * TOPK + slot) >= 0)
        # The rows are not read again, so the L2 cache may evict them first.
        row = tl.load(at, mask=here, other=0.0, eviction_policy="evict_first").to(tl.float32)
        acc += row * tl.load(topk_weights + token * TOPK + slot) if SCALE else row
    tl.store(y + token * K + column, acc.to(y.dtype.element_ty), mask=mask)


def combine(
    rows: Tensor,
    topk: int,
    topk_weights: Tensor | None = None,
    place: Tensor | None = None,
    topk_ids: Tensor | None = None,
) -> Tensor:
    """Return y [M, K] = rows summed over each token's topk rows, in the dtype of the input.

    Args:
        rows: [M * topk, K] fp32, fp16 or bf16, contiguous, in pair order; with ``place`` any number of rows.
        topk: rows per token.
        topk_weights: [M, topk] fp32, contiguous: a factor for each row; None if the rows are already multiplied by it.
        place: [M * topk] int32, the row of each pair; None = pair order.
        topk_ids: [M, topk], contiguous, negative where a pair has no row; None = all have one.
    """
    check_device(rows)
    M, K = (rows if place is None else place).shape[0] // topk, rows.shape[1]
    y = torch.empty((M, K), dtype=rows.dtype, device=rows.device)
    if M == 0:
        return y
    # With few tokens blocks are small, so that the grid still covers the GPU.
    block_k = 256 if M < 256 else min(2048, triton.next_power_of_2(K))
    combine_kernel[(M, triton.cdiv(K, block_k))](
        rows,
        y,
        rows if topk_weights is None else topk_weights,
        place,
        topk_ids,
        K,
        SCALE=topk_weights is not None,
        TOPK=topk,
        BLOCK_K=block_k,
        num_warps=max(1, block_k // 256),
    )
    return y


def combine_torch(rows: Tensor, topk: int) -> Tensor:
    """Reference of ``combine``."""
    return rows.view(-1, topk, rows.shape[1]).sum(dim=1)
