"""Align & sort by a stable radix sort of (expert, pair), as FasterTransformer and TransformerEngine permute tokens.

``permute_map``, ``permute`` and ``unpermute`` are the other half of that design: the rows themselves are moved into
expert order, and back with the router's weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment, Buffers, Remote, buffers
from moe_lab.gpu.kernels import _pairs, sorted_pairs

INFO = {
    "about": "radix sort of the pairs by expert (torch.sort: CUB, rocPRIM), bounds by binary search, one copy; stable",
    "needs": ["torch", "triton"],
    "deterministic": True,
    "steps": {"Sort": "sort", "sort": "sort", "bounds_kernel": "cumsum", "spread_kernel": "place"},
    "source": "moe_lab, after the sort of FasterTransformer and TransformerEngine",
}


class PermuteMap(NamedTuple):
    """Pairs in expert order, without padding.

    Attributes:
        order: [pairs] int64, the pair at each sorted position; pairs with id -1 come first.
        position: [pairs] int64, the sorted position of each pair.
        ends: [E] int64, one past the last sorted position of each expert.
    """

    order: Tensor
    position: Tensor
    ends: Tensor


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries that a call needs on the way, beside what torch.sort takes for itself."""
    return _pairs.bins_of(E) + 1


def align(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    *,
    expert_map: Tensor | None = None,
    remote: Remote = "drop",
    out: Buffers | None = None,
) -> Alignment:
    """Group pairs by expert, in ascending pair order inside an expert; see ``moe_lab.gpu.align.torch_ref``."""
    out = out or buffers(topk_ids, block_m, E, scratch(topk_ids.numel(), E))
    if topk_ids.numel() == 0:
        out.alignment.num_tokens_post_padded.zero_()
        return out.alignment
    ids = topk_ids.reshape(-1)
    if expert_map is not None and remote == "drop":
        ids = torch.where(ids < 0, -1, expert_map[ids])
    # 16 bits are half the radix passes of 32.
    keys, order = ids.to(torch.int16).sort(stable=True)
    labels = expert_map if remote == "tiles" else None
    sorted_pairs.align_sorted(keys, order, block_m, E, out, labels)
    return out.alignment


def permute_map(topk_ids: Tensor, E: int) -> PermuteMap:
    """Sort the pairs of topk_ids [M, topk] by expert, stably; no host synchronisation."""
    keys, order = topk_ids.reshape(-1).to(torch.int16).sort(stable=True)
    pairs = torch.arange(order.numel(), device=order.device)
    position = torch.empty_like(order).scatter_(0, order, pairs)
    ends = torch.searchsorted(keys, torch.arange(E, device=keys.device, dtype=keys.dtype), right=True)
    return PermuteMap(order, position, ends)


def permute(x: Tensor, order: Tensor, topk: int) -> Tensor:
    """Return [pairs, K]: for each sorted position the row of x [M, K] that its pair reads."""
    return x.index_select(0, order // topk)


def unpermute(rows: Tensor, position: Tensor, topk_weights: Tensor) -> Tensor:
    """Return [M, K]: for each token the sum of its topk rows, weighted, added in fp32.

    Args:
        rows: [pairs, K], in sorted order.
        position: [pairs] int64, see ``PermuteMap``.
        topk_weights: [M, topk] fp32.
    """
    M, topk = topk_weights.shape
    mine = rows.index_select(0, position).view(M, topk, -1)
    return torch.einsum("mtk,mt->mk", mine.float(), topk_weights).to(rows.dtype)
