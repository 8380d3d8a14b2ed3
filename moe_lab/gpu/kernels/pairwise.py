"""Align few pairs in one thread block by comparing every pair with every other: no histogram, no loop over E."""

import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._pairs import finish_groups, load_experts, map_arguments

MOST_PAIRS = 128  # they take 10 us on an H200, 32 take 1.6


@triton.jit
def pairwise_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    sorted_token_ids,  # [capacity] int32, out
    expert_ids,  # [tiles] int32, out
    num_tokens_post_padded,  # [1] int32, out
    numel,
    BLOCK_M: tl.constexpr,
    PAIRS: tl.constexpr,  # power of two >= numel
    LANES: tl.constexpr,
    DROP: tl.constexpr,
    RELABEL: tl.constexpr,
):
    """Do all the work."""
    pair = tl.arange(0, PAIRS)
    expert = load_experts(ids, pair, pair < numel, expert_map, DROP)
    valid = expert >= 0
    mine, other = expert[:, None], expert[None, :]
    same = (mine == other).to(tl.int32)  # [PAIRS, PAIRS]
    rank = tl.sum(tl.where(pair[None, :] < pair[:, None], same, 0), axis=1)
    count = tl.sum(same, axis=1)
    # The first pair of an expert speaks for its group.
    leads = valid & (rank == 0)
    padded = tl.where(leads, (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M, 0)
    start = tl.sum(tl.where(other < mine, padded[None, :], 0), axis=1)
    tl.store(sorted_token_ids + start + rank, pair, mask=valid)
    tl.store(num_tokens_post_padded, tl.sum(padded, 0))
    finish_groups(
        sorted_token_ids,
        expert_ids,
        expert_map,
        expert,
        leads,
        start,
        start + count,
        start + padded,
        numel,
        RELABEL,
        BLOCK_M,
        LANES,
    )


def align_pairwise(
    topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor | None = None, remote: str = "drop"
) -> None:
    """Fill ``out.alignment``.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous; the work grows with the square of its size.
        block_m: rows of a tile.
        E: experts; not needed.
        out: memory of this call; no scratch.
        expert_map: [E] int32 or None, see ``moe_lab.gpu.align``.
        remote: what becomes of pairs whose expert maps to -1.
    """
    check_device(topk_ids)
    pointer, drop, relabel = map_arguments(expert_map, remote, topk_ids)
    pairs = max(16, triton.next_power_of_2(topk_ids.numel()))
    pairwise_kernel[(1,)](
        topk_ids,
        pointer,
        *out.alignment,
        topk_ids.numel(),
        BLOCK_M=block_m,
        PAIRS=pairs,
        LANES=min(32, triton.next_power_of_2(block_m)),
        DROP=drop,
        RELABEL=relabel,
        num_warps=min(16, max(4, pairs // 8)),
    )
