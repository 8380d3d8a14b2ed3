# SPDX-License-Identifier: Apache-2.0
"""Every rank gets every token and works on those of its experts; a reduce-scatter adds the results up.

As many bytes as tokens times ranks, whoever needs them: the less so the more experts a token has on each rank.
"""

import torch
from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._wire import Wire, wire
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "all_gather of all tokens, reduce_scatter of the results: no counts, works in CUDA graphs",
    "needs": ["torch", "triton"],
    "source": "moe_lab",
    "layout": "standard",
    "sends": "all",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
}


def prepare(parallel: Parallel, sizes: Sizes) -> Wire:
    """Return the room of calls; see ``_wire.wire`` for errors."""
    return wire(parallel, sizes)


def dispatch(
    x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark, room: Wire
) -> Received:
    """Give every token to every rank.

    Args:
        x: [M, K].
        topk_ids: [M, topk] integer, -1 = dropped.
        topk_weights: [M, topk] fp32.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    M, most = len(x), room.sizes.tokens
    with mark("dispatch"):
        own = room.packed(room.rows(x), room.coded(topk_ids), topk_weights)
        # What pads it to the most tokens has ids of -1, as all bits of each byte are set.
        padding = torch.full((most - M, room.message), 255, dtype=torch.uint8, device=x.device)
        gathered = own.new_empty((parallel.ranks * most, room.message))
        distributed.all_gather_into_tensor(gathered, torch.cat([own, padding]))
        rows, ids, weights = room.unpacked(gathered)
        return Received(rows, room.local(ids), weights, state=(M, most))


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: the sums of each rank's experts [ranks * tokens, K], added up in the dtype of rows."""
    M, most = received.state
    with mark("combine"):
        y = rows.new_empty((most, rows.shape[1]))
        distributed.reduce_scatter_tensor(y, rows.contiguous())
        return y[:M]
