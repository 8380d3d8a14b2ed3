# SPDX-License-Identifier: Apache-2.0
"""Align & sort many pairs over the whole GPU: count chunks, then place them; with many chunks, scan in between.

Up to ``MOST_CHUNKS_SUMMED`` chunks there are two launches: each program of the second adds up all chunk counts itself,
those before its own chunk and the total. They are experts * chunks 16-bit numbers read from the L2 cache, so the
traffic grows with the square of the chunks. Above that, a launch in between turns the counts into running sums.

Each launch waits for the one before to finish. (Starting the second early gained nothing on an H200, see
docs/kernels.md.)
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.align._pairs import (
    bins_of,
    count_experts,
    finish_groups,
    load_experts,
    pick_groups,
    rank_by_comparison,
)
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit

INFO = {
    "about": "Triton over the whole GPU: count chunks, add up the counts (a launch of its own if many), place; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "steps": {"count_kernel": "count", "scan_kernel": "cumsum", "place_kernel": "cumsum+place"},
    "source": "moe_lab; distributed counting as in SGLang's multi-block align",
}

LEAST_CHUNK, MOST_CHUNK = 64, 128  # pairs; a program compares each pair of its chunk with every other
MOST_CHUNKS_SUMMED = 128
COLUMNS, MOST_ROWS = 8, 1024  # what a program of the scan holds at a time: 16 bytes of each row
SHARE = 16  # most experts whose padding and tiles one program writes


@jit
def count_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    counts,  # [chunks, BINS] int16, out
    numel,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    DROP: tl.constexpr,
):
    """Count the pairs of each expert in one chunk."""
    chunk = tl.program_id(0)
    pair = chunk * CHUNK + tl.arange(0, CHUNK)
    expert = load_experts(ids, pair, pair < numel, expert_map, DROP)
    count = count_experts(expert, BINS)
    bins = tl.arange(0, BINS)
    tl.store(counts + chunk * BINS + bins, count.to(tl.int16))


@jit
def scan_kernel(
    counts,  # [chunks, BINS] int16
    before,  # [chunks, BINS] int32, out: pairs of earlier chunks
    totals,  # [BINS] int32, out
    chunks,
    BINS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Turn the counts of a few experts into running sums over the chunks."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    so_far = tl.zeros([COLUMNS], tl.int32)
    for base in range(0, chunks, ROWS):
        row = base + tl.arange(0, ROWS)[:, None]
        at = row * BINS + column[None, :]
        count = tl.load(counts + at, mask=row < chunks, other=0).to(tl.int32)
        tl.store(before + at, so_far[None, :] + tl.cumsum(count, 0) - count, mask=row < chunks)
        so_far += tl.sum(count, 0)
    tl.store(totals + column, so_far)


@jit
def column_sums(words, chunk, chunks, BINS: tl.constexpr, ROWS: tl.constexpr, UNROLL: tl.constexpr):
    """Return (pairs before this chunk, total pairs), each [BINS], from ``words``: chunk counts, two per int32.

    Sums of UNROLL counts stay below 2 ** 16, so one addition adds two counts.
    """
    word = tl.arange(0, BINS // 2)[None, :]
    lane = tl.arange(0, ROWS)[:, None]
    even = tl.zeros([ROWS, BINS // 2], tl.int64)  # pairs before in the low half, all pairs in the high half
    odd = tl.zeros([ROWS, BINS // 2], tl.int64)
    for base in range(0, chunks, ROWS * UNROLL):
        before = tl.zeros([ROWS, BINS // 2], tl.int32)
        total = tl.zeros([ROWS, BINS // 2], tl.int32)
        for i in tl.static_range(UNROLL):
            row = base + i * ROWS + lane
            two = tl.load(words + row * (BINS // 2) + word, mask=row < chunks, other=0)
            total += two
            before += tl.where(row < chunk, two, 0)
        even += ((total & 0xFFFF).to(tl.int64) << 32) | (before & 0xFFFF).to(tl.int64)
        odd += (((total >> 16) & 0xFFFF).to(tl.int64) << 32) | ((before >> 16) & 0xFFFF).to(tl.int64)
    both = tl.reshape(tl.sum(tl.join(even, odd), 0), [BINS])
    return (both & 0xFFFFFFFF).to(tl.int32), (both >> 32).to(tl.int32)


@jit
def place_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    sums,  # SCANNED: [chunks, BINS] int32, pairs of earlier chunks; else [chunks, BINS / 2] int32, counts in 16 bits
    totals,  # [BINS] int32, if SCANNED
    sorted_token_ids,  # [capacity] int32, out
    expert_ids,  # [tiles] int32, out
    num_tokens_post_padded,  # [1] int32, out
    numel,
    chunks,
    E,
    share,  # experts whose padding and tiles this program writes, <= SHARE
    BLOCK_M: tl.constexpr,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    UNROLL: tl.constexpr,
    SHARE: tl.constexpr,
    LANES: tl.constexpr,
    SCANNED: tl.constexpr,
    DROP: tl.constexpr,
    RELABEL: tl.constexpr,
):
    """Write the pairs of one chunk to their rows, and the padding and tiles of a few experts.

    If the experts need more programs than there are chunks, the extra programs have no pairs.
    """
    chunk = tl.program_id(0)
    bins = tl.arange(0, BINS)
    lane = tl.arange(0, CHUNK)
    pair = chunk * CHUNK + lane
    expert = load_experts(ids, pair, pair < numel, expert_map, DROP)
    rank = rank_by_comparison(expert, lane, CHUNK)

    if SCANNED:  # only with more chunks than the experts need programs: each program has a chunk, and its row
        before = tl.load(sums + chunk * BINS + bins)
        count = tl.load(totals + bins)
    else:
        before, count = column_sums(sums, chunk, chunks, BINS, ROWS, UNROLL)
    padded = (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    end = tl.cumsum(padded, 0)
    start = end - padded
    # First row of the expert + its pairs in earlier chunks + its earlier pairs in this chunk.
    row = tl.gather(start + before, tl.maximum(expert, 0), 0) + rank
    tl.store(sorted_token_ids + row, pair, mask=expert >= 0)

    tl.store(num_tokens_post_padded + bins * 0, end, mask=(bins == BINS - 1) & (chunk == 0))
    slot = tl.arange(0, SHARE)
    mine = chunk * share + slot
    my_start, my_count = pick_groups(start, count, mine, BINS)
    valid = (slot < share) & (mine < E)
    finish_groups(
        sorted_token_ids, expert_ids, expert_map, mine, valid, my_start, my_count, numel, RELABEL, BLOCK_M, LANES
    )


class Plan(NamedTuple):
    """How ``numel`` pairs are split into chunks.

    Attributes:
        chunk: pairs per program.
        chunks: programs.
        scanned: whether a launch in between adds the counts up.
        sizes: int32 entries of the counts, the running sums and the totals.
    """

    chunk: int
    chunks: int
    scanned: bool
    sizes: tuple[int, int, int]


def plan(numel: int, E: int) -> Plan:
    """Return the plan for a call: as few chunks as the ranking allows, but enough to fill the GPU."""
    bins = bins_of(E)
    wanted = triton.next_power_of_2(triton.cdiv(max(1, numel), MOST_CHUNKS_SUMMED))
    chunk = min(MOST_CHUNK, max(LEAST_CHUNK, wanted))
    chunks = triton.cdiv(numel, chunk)
    scanned = chunks > MOST_CHUNKS_SUMMED
    cells = chunks * bins
    return Plan(chunk, chunks, scanned, (cells // 2, cells * scanned, bins * scanned))


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries of scratch memory that a call needs."""
    return sum(plan(numel, E).sizes)


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    check_device(topk_ids)
    numel, bins = topk_ids.numel(), bins_of(E)
    chunk, chunks, scanned, sizes = plan(numel, E)
    words, before, totals = out.scratch[: sum(sizes)].split(sizes)
    counts = words.view(torch.int16)
    count_kernel[(chunks,)](topk_ids, expert_map, counts, numel, BINS=bins, CHUNK=chunk, DROP=drop, num_warps=2)
    if scanned:
        rows = min(MOST_ROWS, triton.next_power_of_2(chunks))
        scan_kernel[(bins // COLUMNS,)](
            *(counts, before, totals, chunks), BINS=bins, COLUMNS=COLUMNS, ROWS=rows, num_warps=rows // 64
        )
    warps = 4 if scanned else 8
    rows = max(2, warps * 1024 // bins)
    programs = max(chunks, triton.cdiv(E, SHARE))
    place_kernel[(programs,)](
        *(topk_ids, expert_map, before if scanned else words, totals, *out.alignment),
        *(numel, chunks, E, triton.cdiv(E, programs)),
        BLOCK_M=block_m,
        BINS=bins,
        CHUNK=chunk,
        ROWS=rows,
        UNROLL=min(4, triton.next_power_of_2(triton.cdiv(chunks, rows))),  # UNROLL * CHUNK stays below 2 ** 16
        SHARE=SHARE,
        LANES=min(64, triton.next_power_of_2(block_m)),
        SCANNED=scanned,
        DROP=drop,
        RELABEL=relabel,
        num_warps=warps,
    )


align = launcher(__name__, INFO, _fill, scratch)
