"""Align & sort in plain torch: the reference that the other algorithms are compared with. No host synchronisation."""

import torch
from torch import Tensor

from moe_lab.align import Alignment, capacity

INFO = {
    "about": "readable torch reference: stable sort, searchsorted, scatter",
    "needs": ["torch"],
    "deterministic": True,
    "source": "moe_lab",
}


def align(topk_ids: Tensor, block_m: int, E: int) -> Alignment:
    """Group pairs by expert, in ascending pair order inside an expert.

    Args:
        topk_ids: [M, topk] int32 or int64, each in [0, E).
        block_m: rows of a tile.
        E: experts.
    """
    numel, device = topk_ids.numel(), topk_ids.device
    rows = capacity(numel, block_m, E)
    experts = torch.arange(E, device=device)
    ids, order = topk_ids.reshape(-1).long().sort(stable=True)
    starts = torch.searchsorted(ids, experts)
    counts = torch.searchsorted(ids, experts, right=True) - starts
    padded = (counts + block_m - 1) // block_m * block_m
    ends = padded.cumsum(0)
    row = (ends - padded)[ids] + torch.arange(numel, device=device) - starts[ids]
    sorted_token_ids = torch.full((rows,), numel, dtype=torch.int32, device=device).scatter_(0, row, order.int())
    tiles = torch.arange(-(-rows // block_m), device=device) * block_m
    expert_ids = torch.searchsorted(ends, tiles, right=True).clamp_max(E - 1).int()
    return Alignment(sorted_token_ids, expert_ids, ends[-1:].int())
