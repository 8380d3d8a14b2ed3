# SPDX-License-Identifier: Apache-2.0
"""Align & sort in one launch without communication: every program counts all pairs and lays out its own few experts.

Every program repeats the count, so the work grows with programs * pairs: this suits up to some thousand pairs, where a
second launch would cost more. A running sum ranks the pairs of an expert, so their order is kept.
"""

import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.align._pairs import bins_of, count_experts, finish_groups, load_experts, pick_groups
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit

INFO = {
    "about": "Triton, one launch: every program counts all pairs and lays out its own experts; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "most_pairs": 8192,  # 32768 pairs spill registers; ranks are packed in 16 bits
    "steps": {"one_launch_kernel": "count+cumsum+place", "per_expert_kernel": "count+cumsum+place"},
    "source": "moe_lab",
}

PROGRAMS = 128


@jit
def one_launch_kernel(
    ids,  # [numel] expert of each pair
    expert_map,
    sorted_token_ids,  # [capacity] int32, out
    expert_ids,  # [tiles] int32, out
    num_tokens_post_padded,  # [1] int32, out
    numel,
    E,
    BLOCK_M: tl.constexpr,
    BINS: tl.constexpr,
    PAIRS: tl.constexpr,  # power of two >= numel
    MINE: tl.constexpr,  # experts per program: 1, 2 or 4
    LANES: tl.constexpr,
    DROP: tl.constexpr,
    RELABEL: tl.constexpr,
):
    """Lay out the groups of the experts program * MINE to program * MINE + MINE - 1."""
    program = tl.program_id(0)
    pair = tl.arange(0, PAIRS)
    expert = load_experts(ids, pair, pair < numel, expert_map, DROP)
    count = count_experts(expert, BINS)
    padded = (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    end = tl.cumsum(padded, 0)
    start = end - padded

    slot = expert - program * MINE
    here = (slot >= 0) & (slot < MINE)
    slot = tl.where(here, slot, 0)
    if MINE <= 2:
        one = tl.where(here, 1 << (slot * 16), 0)
    else:
        one = tl.where(here, tl.full([PAIRS], 1, tl.int64) << (slot * 16).to(tl.int64), 0)
    earlier = tl.cumsum(one, 0) - one  # a 16-bit counter for each of my experts, all in one scan
    rank = ((earlier >> (slot * 16).to(earlier.dtype)) & 0xFFFF).to(tl.int32)

    mine = program * MINE + tl.arange(0, MINE)
    my_start, my_count = pick_groups(start, count, mine, BINS)
    row = tl.gather(my_start, slot, 0) + rank
    tl.store(sorted_token_ids + row, pair, mask=here)
    bins = tl.arange(0, BINS)
    tl.store(num_tokens_post_padded + bins * 0, end, mask=(bins == BINS - 1) & (program == 0))
    finish_groups(
        sorted_token_ids, expert_ids, expert_map, mine, mine < E, my_start, my_count, numel, RELABEL, BLOCK_M, LANES
    )


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    check_device(topk_ids)
    pairs = max(64, triton.next_power_of_2(topk_ids.numel()))
    mine = min(4, max(1, triton.next_power_of_2(triton.cdiv(E, PROGRAMS))))
    one_launch_kernel[(triton.cdiv(E, mine),)](
        topk_ids,
        expert_map,
        *out.alignment,
        topk_ids.numel(),
        E,
        BLOCK_M=block_m,
        BINS=bins_of(E),
        PAIRS=pairs,
        MINE=mine,
        LANES=min(64, triton.next_power_of_2(block_m)),
        DROP=drop,
        RELABEL=relabel,
        num_warps=4 if pairs <= 1024 else 8 if pairs <= 4096 else 16,
    )


align = launcher(__name__, INFO, _fill)
