"""Align in two launches of which one is a single busy block: one block counts and scans, many blocks place by atomics.

The way of vLLM and SGLang since 2024, in Triton: a second block of the first launch meanwhile fills sorted_token_ids
with padding; then every pair takes the next row of its expert from a counter that all blocks share.
"""

import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._pairs import bins_of, count_experts, load_experts, map_arguments

THREADS = 1024


@triton.jit
def count_scan_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    next_row,  # [BINS] int32, out: first row of each expert
    sorted_token_ids,  # [capacity] int32, out: padding everywhere
    expert_ids,  # [tiles] int32, out
    num_tokens_post_padded,  # [1] int32, out
    numel,
    capacity,
    BLOCK_M: tl.constexpr,
    BINS: tl.constexpr,
    TILE: tl.constexpr,
    DROP: tl.constexpr,
    RELABEL: tl.constexpr,
):
    """Program 0 counts, scans and writes the tiles; program 1 fills the rows with padding."""
    lane = tl.arange(0, TILE)
    if tl.program_id(0) == 1:
        for base in range(0, capacity, TILE):
            tl.store(sorted_token_ids + base + lane, tl.zeros_like(lane) + numel, mask=base + lane < capacity)
    else:
        bins = tl.arange(0, BINS)
        count = tl.zeros([BINS], tl.int32)
        for base in range(0, numel, TILE):
            count += count_experts(load_experts(ids, base + lane, base + lane < numel, expert_map, DROP), BINS)
        tiles = (count + BLOCK_M - 1) // BLOCK_M
        last = tl.cumsum(tiles, 0)
        first = last - tiles
        tl.store(next_row + bins, first * BLOCK_M)
        tl.store(num_tokens_post_padded, tl.sum(tiles, 0) * BLOCK_M)
        label = bins
        if RELABEL:
            label = tl.load(expert_map + bins, mask=count > 0, other=-1)
        for tile in range(0, tl.max(tiles, 0)):
            tl.store(expert_ids + first + tile, label, mask=tile < tiles)


@triton.jit
def place_by_atomics_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    next_row,  # [BINS] int32, changed
    sorted_token_ids,  # [capacity] int32, out: pairs only
    numel,
    CHUNK: tl.constexpr,
    DROP: tl.constexpr,
):
    """Give each pair of a chunk the next row of its expert."""
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    expert = load_experts(ids, pair, pair < numel, expert_map, DROP)
    row = tl.atomic_add(next_row + expert, 1, mask=expert >= 0, sem="relaxed")
    tl.store(sorted_token_ids + row, pair, mask=expert >= 0)


def align_count_scan_place(
    topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor | None = None, remote: str = "drop"
) -> None:
    """Fill ``out.alignment``.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous.
        block_m: rows of a tile.
        E: experts.
        out: memory of this call, with ``bins_of(E)`` entries of scratch.
        expert_map: [E] int32 or None, see ``moe_lab.gpu.align``.
        remote: what becomes of pairs whose expert maps to -1.
    """
    check_device(topk_ids)
    pointer, drop, relabel = map_arguments(expert_map, remote, topk_ids)
    numel, rows = topk_ids.numel(), out.alignment.sorted_token_ids
    count_scan_kernel[(2,)](
        topk_ids,
        pointer,
        out.scratch,
        *out.alignment,
        numel,
        rows.numel(),
        BLOCK_M=block_m,
        BINS=bins_of(E),
        TILE=THREADS,
        DROP=drop,
        RELABEL=relabel,
        num_warps=THREADS // 32,
    )
    place_by_atomics_kernel[(triton.cdiv(numel, 256),)](
        topk_ids, pointer, out.scratch, rows, numel, CHUNK=256, DROP=drop, num_warps=8
    )
