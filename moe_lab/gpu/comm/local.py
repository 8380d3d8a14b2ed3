# SPDX-License-Identifier: Apache-2.0
"""One rank that holds every expert: nothing is sent, and ids become local numbers."""

import torch
from torch import Tensor

from moe_lab.gpu.comm import Received
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "one rank: nothing is sent",
    "needs": ["torch"],
    "source": "moe_lab",
    "layout": "standard",
    "ranks": "one",
    "stages": ["dispatch"],
}


def dispatch(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark) -> Received:
    """Return the tokens as they are, with the local numbers of their experts.

    Args:
        x: [M, K].
        topk_ids: [M, topk] integer.
        topk_weights: [M, topk] fp32.
        parallel: a placement on one rank, with its experts in any order.
        mark: opens a range.

    Raises:
        UserError: there are several ranks.
    """
    if parallel.ranks != 1:
        raise UserError(f"The comm plugin 'local' is for one rank, not {parallel.ranks}; choose another one.")
    with mark("dispatch"):
        local = torch.tensor(parallel.expert_map(), dtype=topk_ids.dtype, device=topk_ids.device)
        # Clamped: as an index, -1 would pick the last expert. A mask would make the host wait for the GPU.
        ids = torch.where(topk_ids < 0, -1, local[topk_ids.clamp_min(0).long()])
        return Received(x, ids, topk_weights)


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return the experts' results [M, K] as they are."""
    return rows  # every expert of a token is here, so its sum is complete
