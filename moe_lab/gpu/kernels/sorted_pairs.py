"""From pairs already sorted by expert to the tiles of an alignment: bounds by binary search, then one copy."""

import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._pairs import bins_of, finish_groups, pick_groups

CHUNK = 512
SHARE = 16  # experts whose padding and tiles one program writes


@triton.jit
def bounds_kernel(
    keys,  # [numel] sorted experts, -1 for dropped pairs
    bounds,  # [BINS + 1] int32, out: first sorted pair of each expert; the last entry: numel
    numel,
    STEPS: tl.constexpr,  # 2 ** STEPS > numel
    BINS: tl.constexpr,
):
    """Find where each expert begins: BINS binary searches side by side."""
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


@triton.jit
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
    row = tl.gather(start - first, tl.maximum(expert, 0), 0) + place
    tl.store(sorted_token_ids + row, pair, mask=expert >= 0)
    tl.store(num_tokens_post_padded + bins * 0, end, mask=(bins == BINS - 1) & (program == 0))
    mine = program * MINE + tl.arange(0, MINE)
    my_start, my_count, my_end = pick_groups(start, count, mine, BINS, BLOCK_M)
    finish_groups(
        *(sorted_token_ids, expert_ids, expert_map, mine, mine < E, my_start, my_start + my_count, my_end),
        numel,
        RELABEL,
        BLOCK_M,
        LANES,
    )


def align_sorted(keys: Tensor, order: Tensor, block_m: int, E: int, out: Buffers, labels: Tensor | None = None) -> None:
    """Fill ``out.alignment`` from sorted pairs.

    Args:
        keys: [numel] integer, experts in ascending order; -1 entries are dropped.
        order: [numel] int64, the pair at each position of ``keys``.
        block_m: rows of a tile.
        E: experts.
        out: memory of this call, with bins_of(E) + 1 entries of scratch.
        labels: [E] int32, what expert_ids say instead of the expert; or None.
    """
    check_device(keys)
    numel, bins = keys.numel(), bins_of(E)
    programs = max(triton.cdiv(numel, CHUNK), triton.cdiv(E, SHARE))
    bounds_kernel[(1,)](
        keys, out.scratch, numel, STEPS=numel.bit_length(), BINS=bins, num_warps=max(1, min(8, bins // 32))
    )
    spread_kernel[(programs,)](
        *(keys, order, out.scratch, keys if labels is None else labels, *out.alignment, numel, E),
        BLOCK_M=block_m,
        BINS=bins,
        CHUNK=CHUNK,
        MINE=SHARE,
        LANES=min(64, triton.next_power_of_2(block_m)),
        RELABEL=labels is not None,
        num_warps=4,
    )
