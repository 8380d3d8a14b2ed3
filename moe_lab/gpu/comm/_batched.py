# SPDX-License-Identifier: Apache-2.0
"""Received rows by expert, for backends that want them so: [local experts * room, K] with counts.

Any comm plugin's rows will do. Every expert has room for all of them: sizes are fixed, and the host waits for nothing.
"""

from dataclasses import replace

from moe_lab.gpu.comm import Received
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.formats import Quantised, dense
from moe_lab.gpu.kernels.padded_rows import masked, move_rows, place_rows
from moe_lab.gpu.weights import DTYPES
from moe_lab.spec import formats
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark


def by_expert(received: Received, experts: int, problem: MoEProblem, mark: Mark) -> Received:
    """Return rows in the batched layout. Quantised rows stay as they are, others are quantised if the format is one.

    Args:
        received: in the standard layout, at least one row.
        experts: of this rank, at least one.
        problem: its format, and where the router weight goes.
        mark: opens a range.
    """
    x, ids, weights = received.x, received.topk_ids, received.topk_weights
    assert weights is not None  # a plugin that keeps them delivers rows by expert itself
    if problem.apply_router_weight_on_input:
        x, weights = place_weight(dense(x, DTYPES[problem.dtype]), weights, problem, mark)
    room, topk = ids.shape
    with mark("dispatch"):
        place, counts = masked(ids, experts, room)
        scaled = room if formats.get(problem.format).quantised else None
        rows = (
            move_rows(x, place, experts * room, topk, room)
            if isinstance(x, Quantised)
            else place_rows(x, place, experts * room, topk, room=scaled)
        )
    return replace(received, x=rows, topk_weights=weights, counts=counts, place=place)
