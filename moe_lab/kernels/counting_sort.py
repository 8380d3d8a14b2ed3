"""Stable counting sort of (token, slot) pairs by expert, each expert's group padded to a multiple of block_m.

Pairs are cut into chunks of CHUNK. ``histogram`` counts each chunk's pairs by expert and adds them to the totals
(integer
atomics: the sum does not depend on their order). ``scan`` has one program an expert: it finds where the expert's group
starts, turns the chunk counts into the first row of each chunk, and writes what is constant for the expert. ``scatter``
ranks the pairs of a chunk by comparing them with each other and writes each pair at its row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.kernels._device import check_device

INDEX = torch.int32
CHUNK = 128
TILE = 1024


@triton.jit
def histogram_kernel(
    ids,  # [numel] expert of each pair
    counts,  # [E, chunks] int32, out
    totals,  # [E] int32, zeroed, out
    numel,
    chunks,
    E,
    BINS: tl.constexpr,  # power of two > E: the last bin takes what lies past the end
    CHUNK: tl.constexpr,
):
    """Count the pairs of one chunk by expert."""
    chunk = tl.program_id(0)
    pair = chunk * CHUNK + tl.arange(0, CHUNK)
    expert = tl.load(ids + pair, mask=pair < numel, other=BINS - 1).to(tl.int32)
    # Via int64: Triton 3.4's interpreter holds these counts in 8 bytes and would store all 8. Free on a GPU.
    count = tl.histogram(expert, BINS).to(tl.int64).to(tl.int32)
    bins = tl.arange(0, BINS)
    tl.store(counts + bins * chunks + chunk, count, mask=bins < E)
    tl.atomic_add(totals + bins, count, mask=(bins < E) & (count > 0), sem="relaxed")


@triton.jit
def scan_kernel(
    counts,  # [E, chunks] int32: in, pairs; out, first row
    totals,  # [E] int32
    sorted_token_ids,  # [capacity] int32, out: padding only
    expert_ids,  # [tiles] int32, out
    num_tokens_post_padded,  # [1] int32, out
    numel,
    chunks,
    E,
    block_m,
    BINS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Lay out the group of one expert."""
    expert = tl.program_id(0)
    bins = tl.arange(0, BINS)
    pairs = tl.load(totals + bins, mask=bins < E, other=0)
    padded = (pairs + block_m - 1) // block_m * block_m
    start = tl.sum(tl.where(bins < expert, padded, 0))
    rows = tl.sum(tl.where(bins == expert, pairs, 0))
    end = start + tl.sum(tl.where(bins == expert, padded, 0))
    if expert == 0:
        tl.store(num_tokens_post_padded, tl.sum(padded))

    lane = tl.arange(0, TILE)
    first = start
    for base in range(0, chunks, TILE):
        at = counts + expert * chunks + base + lane
        count = tl.load(at, mask=base + lane < chunks, other=0)
        tl.store(at, first + tl.cumsum(count, 0) - count, mask=base + lane < chunks)
        first += tl.sum(count)
    for base in range(start + rows, end, TILE):
        tl.store(sorted_token_ids + base + lane, tl.full([TILE], 0, tl.int32) + numel, mask=base + lane < end)
    for base in range(start // block_m, end // block_m, TILE):
        tl.store(expert_ids + base + lane, tl.full([TILE], 0, tl.int32) + expert, mask=base + lane < end // block_m)


@triton.jit
def scatter_kernel(
    ids,  # [numel] expert of each pair
    first_row,  # [E, chunks] int32
    sorted_token_ids,  # [capacity] int32, out
    numel,
    chunks,
    CHUNK: tl.constexpr,
):
    """Write the pairs of one chunk at their rows."""
    chunk = tl.program_id(0)
    lane = tl.arange(0, CHUNK)
    pair = chunk * CHUNK + lane
    valid = pair < numel
    expert = tl.load(ids + pair, mask=valid, other=-1).to(tl.int32)
    before = (expert[None, :] == expert[:, None]) & (lane[None, :] < lane[:, None])  # [CHUNK, CHUNK]
    rank = tl.sum(before.to(tl.int32), axis=1)
    row = tl.load(first_row + expert * chunks + chunk, mask=valid, other=0) + rank
    tl.store(sorted_token_ids + row, pair, mask=valid)


def align_pairs(topk_ids: Tensor, block_m: int, E: int, sorted_token_ids: Tensor, expert_ids: Tensor) -> Tensor:
    """Fill the arrays of ``moe_lab.align.Alignment`` and return its num_tokens_post_padded [1] int32.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous.
        block_m: rows of a tile.
        E: experts.
        sorted_token_ids: [capacity] int32, out.
        expert_ids: [tiles] int32, out.
    """
    check_device(topk_ids)
    numel, device = topk_ids.numel(), topk_ids.device
    totals = torch.zeros(E + 1, dtype=INDEX, device=device)
    if numel == 0:
        return totals[E:]
    chunks = triton.cdiv(numel, CHUNK)
    counts = torch.empty((E, chunks), dtype=INDEX, device=device)
    bins = triton.next_power_of_2(E + 1)
    histogram_kernel[(chunks,)](topk_ids, counts, totals, numel, chunks, E, BINS=bins, CHUNK=CHUNK, num_warps=4)
    post_padded = totals[E:]
    tile = min(TILE, max(128, triton.next_power_of_2(chunks)))
    scan_kernel[(E,)](
        counts,
        totals,
        sorted_token_ids,
        expert_ids,
        post_padded,
        numel,
        chunks,
        E,
        block_m,
        BINS=bins,
        TILE=tile,
        num_warps=4,
    )
    scatter_kernel[(chunks,)](topk_ids, counts, sorted_token_ids, numel, chunks, CHUNK=CHUNK, num_warps=4)
    return post_padded
