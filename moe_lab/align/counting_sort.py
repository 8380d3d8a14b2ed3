"""Align & sort as a stable counting sort in three Triton kernels: histogram, scan, scatter. No host synchronisation."""

from torch import Tensor

from moe_lab.align import Alignment, capacity
from moe_lab.kernels import counting_sort

INFO = {
    "about": "Triton counting sort: a histogram a chunk, a scan an expert, a scatter; stable, so deterministic",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "source": "moe_lab",
}


def align(topk_ids: Tensor, block_m: int, E: int) -> Alignment:
    """Group pairs by expert, in ascending pair order inside an expert.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous, each in [0, E).
        block_m: rows of a tile, any positive number.
        E: experts.
    """
    rows = capacity(topk_ids.numel(), block_m, E)
    sorted_token_ids = topk_ids.new_empty((rows,), dtype=counting_sort.INDEX)
    expert_ids = topk_ids.new_empty((-(-rows // block_m),), dtype=counting_sort.INDEX)
    total = counting_sort.align_pairs(topk_ids, block_m, E, sorted_token_ids, expert_ids)
    return Alignment(sorted_token_ids, expert_ids, total)
