# SPDX-License-Identifier: Apache-2.0
"""Align & sort in four launches: a histogram per program, a running sum per expert, one over the experts, a scatter.

This is the structure of SGLang's first Triton version: as many programs as experts, each with an equal share of the
pairs, which it processes tile by tile. Within a tile, pairs are ranked by comparison, so the order of an expert's pairs
is kept.
"""

import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.align._pairs import bins_of, count_experts, finish_groups, load_experts, rank_by_comparison
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit

INFO = {
    "about": "Triton, four launches: histogram per program, running sum per expert, running sum over experts, scatter",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "steps": {
        "share_histogram_kernel": "count",
        "column_cumsum_kernel": "cumsum",
        "expert_cumsum_kernel": "cumsum",
        "scatter_kernel": "place",
    },
    "source": "moe_lab, after the stages of SGLang's first Triton moe_align_block_size",
}

TILE = 128


@jit
def share_histogram_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    counts,  # [programs, BINS] int32, out
    numel,
    share,
    BINS: tl.constexpr,
    TILE: tl.constexpr,
    DROP: tl.constexpr,
):
    """Stage 1: count the pairs of each expert in one share."""
    program = tl.program_id(0)
    last = tl.minimum(numel, (program + 1) * share)
    count = tl.zeros([BINS], tl.int32)
    for base in range(program * share, last, TILE):
        pair = base + tl.arange(0, TILE)
        count += count_experts(load_experts(ids, pair, pair < last, expert_map, DROP), BINS)
    tl.store(counts + program * BINS + tl.arange(0, BINS), count)


@jit
def column_cumsum_kernel(
    counts,  # [programs, BINS] int32: in, pairs; out, pairs of earlier programs
    totals,  # [BINS] int32, out
    programs,
    BINS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Stage 2: the running sum of one expert over the programs."""
    expert = tl.program_id(0)
    so_far = tl.full([], 0, tl.int32)
    for base in range(0, programs, TILE):
        row = base + tl.arange(0, TILE)
        at = counts + row * BINS + expert
        count = tl.load(at, mask=row < programs, other=0)
        tl.store(at, so_far + tl.cumsum(count, 0) - count, mask=row < programs)
        so_far += tl.sum(count, 0)
    tl.store(totals + expert, so_far)


@jit
def expert_cumsum_kernel(
    totals,  # [BINS] int32
    starts,  # [BINS] int32, out: first row of each expert
    num_tokens_post_padded,  # [1] int32, out
    BLOCK_M: tl.constexpr,
    BINS: tl.constexpr,
):
    """Stage 3: the running sum over the experts, padded."""
    bins = tl.arange(0, BINS)
    padded = (tl.load(totals + bins) + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    tl.store(starts + bins, tl.cumsum(padded, 0) - padded)
    tl.store(num_tokens_post_padded, tl.sum(padded, 0))


@jit
def scatter_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    before,  # [programs, BINS] int32: pairs of earlier programs
    totals,  # [BINS] int32
    starts,  # [BINS] int32
    sorted_token_ids,  # [capacity] int32, out
    expert_ids,  # [tiles] int32, out
    numel,
    share,
    E,
    BLOCK_M: tl.constexpr,
    BINS: tl.constexpr,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    DROP: tl.constexpr,
    RELABEL: tl.constexpr,
):
    """Stage 4: place the pairs of one share, tile by tile; fill the group of one expert."""
    program = tl.program_id(0)
    last = tl.minimum(numel, (program + 1) * share)
    bins, lane = tl.arange(0, BINS), tl.arange(0, TILE)
    next_row = tl.load(starts + bins) + tl.load(before + program * BINS + bins)
    for base in range(program * share, last, TILE):
        expert = load_experts(ids, base + lane, base + lane < last, expert_map, DROP)
        row = tl.gather(next_row, tl.maximum(expert, 0), 0) + rank_by_comparison(expert, lane, TILE)
        tl.store(sorted_token_ids + row, base + lane, mask=expert >= 0)
        next_row += count_experts(expert, BINS)
    mine = program + tl.arange(0, 1)
    start, pairs = tl.load(starts + mine), tl.load(totals + mine)
    finish_groups(
        sorted_token_ids, expert_ids, expert_map, mine, mine < E, start, pairs, numel, RELABEL, BLOCK_M, LANES
    )


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries of scratch memory that a call needs."""
    return (E + 2) * bins_of(E)


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    check_device(topk_ids)
    numel, bins = topk_ids.numel(), bins_of(E)
    share = triton.cdiv(numel, E)
    counts, totals, starts = out.scratch.split([E * bins, bins, bins])
    rows, tiles, total = out.alignment
    share_histogram_kernel[(E,)](
        topk_ids, expert_map, counts, numel, share, BINS=bins, TILE=TILE, DROP=drop, num_warps=4
    )
    column_cumsum_kernel[(bins,)](counts, totals, E, BINS=bins, TILE=min(1024, bins), num_warps=4)
    expert_cumsum_kernel[(1,)](totals, starts, total, BLOCK_M=block_m, BINS=bins, num_warps=4)
    scatter_kernel[(E,)](
        *(topk_ids, expert_map, counts, totals, starts, rows, tiles, numel, share, E),
        BLOCK_M=block_m,
        BINS=bins,
        TILE=TILE,
        LANES=min(64, triton.next_power_of_2(block_m)),
        DROP=drop,
        RELABEL=relabel,
        num_warps=4,
    )


align = launcher(__name__, INFO, _fill, scratch)
