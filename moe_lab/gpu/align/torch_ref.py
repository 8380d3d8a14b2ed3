# SPDX-License-Identifier: Apache-2.0
"""Align & sort in plain torch: the reference for the other algorithms. No host synchronisation."""

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers, padded

INFO = {
    "about": "readable torch reference: stable sort, searchsorted, scatter",
    "needs": ["torch"],
    "deterministic": True,
    "steps": {"Sort": "sort", "sort": "sort"},
    "source": "moe_lab",
}


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in ascending order of pairs within an expert.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous, each in -1..E-1; a pair with id -1 appears nowhere.
        block_m: rows per tile, any positive number.
        E: experts, 1..1024.
        expert_map: [E] int32 of ``Parallel.expert_map``: the local number of each expert, -1 for those of other ranks.
        remote: what happens to the pairs of other ranks. ``drop``: they appear nowhere, and groups are in the order of
            local numbers. ``tiles``: groups are in the order of global numbers, and a tile's expert id is the local
            number, so tiles of other ranks have -1.
        out: memory to write to, from ``moe_lab.gpu.align.buffers``; None to allocate.

    Raises:
        ValueError: a wrong dtype, a view with gaps, or sizes out of range. The ids are not checked.
    """
    result = (out or buffers(topk_ids, block_m, E)).alignment
    numel, device = topk_ids.numel(), topk_ids.device
    ids = topk_ids.reshape(-1).long()
    if expert_map is not None and remote == "drop":
        ids = torch.where(ids < 0, -1, expert_map.long()[ids])
    experts = torch.arange(E, device=device)
    ids, order = ids.sort(stable=True)
    starts = torch.searchsorted(ids, experts)
    counts = torch.searchsorted(ids, experts, right=True) - starts
    ends = padded(counts, block_m).cumsum(0)
    first = torch.cat([ends.new_zeros(1), ends[:-1]])
    row = first[ids] + torch.arange(numel, device=device) - starts[ids]
    # Dropped pairs are written to an extra row at the end, which is then cut off.
    rows = result.sorted_token_ids.new_full((result.sorted_token_ids.numel() + 1,), numel)
    rows.scatter_(0, torch.where(ids < 0, rows.numel() - 1, row), order.int())
    result.sorted_token_ids.copy_(rows[:-1])
    tile = torch.arange(result.expert_ids.numel(), device=device) * block_m
    expert = torch.searchsorted(ends, tile, right=True).clamp_max(E - 1).int()
    result.expert_ids.copy_(expert_map[expert] if expert_map is not None and remote == "tiles" else expert)
    result.num_tokens_post_padded.copy_(ends[-1:])
    return result
