# SPDX-License-Identifier: Apache-2.0
"""Align & sort by a stable radix sort of (expert, pair), as FasterTransformer and TransformerEngine permute tokens."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.align._pairs import bins_of, finish_groups, pick_groups
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit

INFO = {
    "about": "radix sort of the pairs by expert (torch.sort: CUB, rocPRIM), bounds by binary search, one copy; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "steps": {"Sort": "sort", "sort": "sort", "bounds_kernel": "cumsum", "spread_kernel": "place"},
    "source": "moe_lab, after the sort of FasterTransformer and TransformerEngine",
}

CHUNK = 512
SHARE = 16  # experts whose padding and tiles one program writes


@jit
def bounds_kernel(
    keys,  # [numel] sorted experts, -1 for dropped pairs
    bounds,  # [BINS + 1] int32, out: first sorted pair of each expert; the last entry is numel
    numel,
    STEPS: tl.constexpr,  # 2 ** STEPS > numel
    BINS: tl.constexpr,
):
    """Find where each expert begins, by BINS binary searches in parallel."""
    bins = tl.arange(0, BINS)
    low = tl.zeros([BINS], tl.int32)
    high = low + numel
    for _ in range(STEPS):
        middle = (low + high) // 2
        searching = low < high
        below = tl.load(keys + middle, mask=searching, other=0).to(tl.int32) < bins
        low = tl.where(searching & below, middle + 1, low)
        high = tl.where(searching & (below == 0), middle, high)
    tl.store(bounds + bins, low)
    tl.store(bounds + BINS, numel)


@jit
def spread_kernel(
    keys,  # [numel] sorted experts
    order,  # [numel] int64, the pair at each sorted position
    bounds,  # [BINS + 1] int32
    expert_map,
    sorted_token_ids,  # [capacity] int32, out
    expert_ids,  # [tiles] int32, out
    num_tokens_post_padded,  # [1] int32, out
    numel,
    E,
    BLOCK_M: tl.constexpr,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    MINE: tl.constexpr,
    LANES: tl.constexpr,
    RELABEL: tl.constexpr,
):
    """Copy one chunk of sorted pairs to its rows, and fill the groups of a few experts."""
    program = tl.program_id(0)
    bins = tl.arange(0, BINS)
    first = tl.load(bounds + bins)
    count = tl.load(bounds + bins + 1) - first
    padded = (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    end = tl.cumsum(padded, 0)
    start = end - padded
    place = program * CHUNK + tl.arange(0, CHUNK)
    expert = tl.load(keys + place, mask=place < numel, other=-1).to(tl.int32)
    pair = tl.load(order + place, mask=expert >= 0, other=0).to(tl.int32)
    # Padding shifts all pairs of an expert by the same number of rows.
    row = tl.gather(start - first, tl.maximum(expert, 0), 0) + place
    tl.store(sorted_token_ids + row, pair, mask=expert >= 0)
    tl.store(num_tokens_post_padded + bins * 0, end, mask=(bins == BINS - 1) & (program == 0))
    mine = program * MINE + tl.arange(0, MINE)
    my_start, my_count = pick_groups(start, count, mine, BINS)
    finish_groups(
        sorted_token_ids, expert_ids, expert_map, mine, mine < E, my_start, my_count, numel, RELABEL, BLOCK_M, LANES
    )


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries of scratch memory that a call needs, besides what torch.sort allocates itself."""
    return bins_of(E) + 1


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    check_device(topk_ids)
    numel, bins = topk_ids.numel(), bins_of(E)
    ids = topk_ids.reshape(-1)
    if drop:
        ids = torch.where(ids < 0, -1, expert_map[ids])
    # Keys of 16 bits take half as many radix passes as those of 32.
    keys, order = ids.to(torch.int16).sort(stable=True)
    bounds_kernel[(1,)](
        keys, out.scratch, numel, STEPS=numel.bit_length(), BINS=bins, num_warps=max(1, min(8, bins // 32))
    )
    spread_kernel[(max(triton.cdiv(numel, CHUNK), triton.cdiv(E, SHARE)),)](
        *(keys, order, out.scratch, expert_map, *out.alignment, numel, E),
        BLOCK_M=block_m,
        BINS=bins,
        CHUNK=CHUNK,
        MINE=SHARE,
        LANES=min(64, triton.next_power_of_2(block_m)),
        RELABEL=relabel,
        num_warps=4,
    )


align = launcher(__name__, INFO, _fill, scratch)
