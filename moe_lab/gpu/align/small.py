# SPDX-License-Identifier: Apache-2.0
"""Align & sort for a decode step: one thread block compares each of a few pairs with every other."""

import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.align._pairs import finish_groups, load_experts
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit

INFO = {
    "about": "Triton, one thread block that compares every pair with every other: a few dozen pairs at most; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "most_pairs": 128,  # they take 10 us on an H200, 32 take 1.6
    "steps": {"small_kernel": "count+cumsum+place", "pairwise_kernel": "count+cumsum+place"},
    "source": "moe_lab",
}


@jit
def small_kernel(
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
    """Align all pairs."""
    pair = tl.arange(0, PAIRS)
    expert = load_experts(ids, pair, pair < numel, expert_map, DROP)
    valid = expert >= 0
    mine, other = expert[:, None], expert[None, :]
    same = (mine == other).to(tl.int32)  # [PAIRS, PAIRS]
    rank = tl.sum(tl.where(pair[None, :] < pair[:, None], same, 0), axis=1)
    count = tl.sum(same, axis=1)
    # The first pair of each expert stands for its group.
    leads = valid & (rank == 0)
    padded = tl.where(leads, (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M, 0)
    start = tl.sum(tl.where(other < mine, padded[None, :], 0), axis=1)
    tl.store(sorted_token_ids + start + rank, pair, mask=valid)
    tl.store(num_tokens_post_padded, tl.sum(padded, 0))
    finish_groups(sorted_token_ids, expert_ids, expert_map, expert, leads, start, count, numel, RELABEL, BLOCK_M, LANES)


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    check_device(topk_ids)
    pairs = max(16, triton.next_power_of_2(topk_ids.numel()))
    small_kernel[(1,)](
        topk_ids,
        expert_map,
        *out.alignment,
        topk_ids.numel(),
        BLOCK_M=block_m,
        PAIRS=pairs,
        LANES=min(32, triton.next_power_of_2(block_m)),
        DROP=drop,
        RELABEL=relabel,
        num_warps=min(16, max(4, pairs // 8)),
    )


align = launcher(__name__, INFO, _fill)
