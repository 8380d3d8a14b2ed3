# SPDX-License-Identifier: Apache-2.0
"""Device code that the align kernels share: read experts, count them, lay groups out, write padding and expert ids."""

import triton
import triton.language as tl

from moe_lab.gpu.kernels._jit import jit


@jit
def load_experts(ids, pair, mask, expert_map, DROP: tl.constexpr):
    """Return the experts of pairs as int32, -1 for masked or dropped pairs; DROP: as ``expert_map`` numbers them."""
    expert = tl.load(ids + pair, mask=mask, other=-1).to(tl.int32)
    if DROP:
        expert = tl.load(expert_map + expert, mask=expert >= 0, other=-1)
    return expert


@jit
def count_experts(expert, BINS: tl.constexpr):
    """Return [BINS] int32: how many entries of ``expert`` name each bin; negative entries name none."""
    count = tl.histogram(tl.maximum(expert, 0), BINS, mask=expert >= 0)
    # Through int64: Triton 3.4's interpreter holds these counts in 8 bytes and would store all 8. Free on a GPU.
    return count.to(tl.int64).to(tl.int32)


@jit
def rank_by_comparison(expert, lane, PAIRS: tl.constexpr):
    """Return, for each of PAIRS entries, how many earlier ones name the same expert, by PAIRS * PAIRS comparisons."""
    # The sum is over rows because a warp's lanes lie along columns: most of it stays inside a thread.
    before = (expert[:, None] == expert[None, :]) & (lane[:, None] < lane[None, :])  # [PAIRS, PAIRS]
    return tl.sum(before.to(tl.int32), axis=0)


@jit
def pick_groups(start, count, expert, BINS: tl.constexpr):
    """Return (start, count) of the groups of some experts, from ``start`` and ``count`` [BINS] of all."""
    # One gather of both: gathers go through shared memory, and the kernel is short.
    both = (start.to(tl.int64) << 32) | count.to(tl.int64)
    both = tl.gather(both, tl.minimum(expert, BINS - 1), 0)
    return (both >> 32).to(tl.int32), (both & 0x7FFFFFFF).to(tl.int32)


@jit
def finish_groups(
    sorted_token_ids,  # [capacity] int32, out: padding only
    expert_ids,  # [tiles] int32, out
    expert_map,
    expert,  # [GROUPS] int32
    valid,  # [GROUPS] bool
    start,  # [GROUPS] first row of the group
    count,  # [GROUPS] its pairs
    numel,
    RELABEL: tl.constexpr,  # tiles carry expert_map[expert]
    BLOCK_M: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write the padding rows and the expert ids of some groups."""
    lane = tl.arange(0, LANES)[None, :]
    label = expert
    if RELABEL:
        label = tl.load(expert_map + expert, mask=valid, other=-1)
    label = tl.broadcast_to(label[:, None], expert.shape[0], LANES)
    end = start + (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    used, last = (start + count)[:, None], tl.where(valid, end, 0)[:, None]
    # A group has fewer than BLOCK_M rows of padding, so this loop can be unrolled; its tiles may be any number.
    for base in tl.static_range(0, BLOCK_M, LANES):
        row = used + base + lane
        tl.store(sorted_token_ids + row, tl.zeros_like(row) + numel, mask=row < last)
    first_tile = start // BLOCK_M
    tiles = tl.where(valid, end // BLOCK_M - first_tile, 0)
    for base in range(0, tl.max(tiles, 0), LANES):
        tile = base + lane
        tl.store(expert_ids + first_tile[:, None] + tile, label, mask=tile < tiles[:, None])


def bins_of(E: int) -> int:
    """Return the number of bins for a histogram over E experts: a power of two, at least a wavefront (64)."""
    return max(64, int(triton.next_power_of_2(E)))
