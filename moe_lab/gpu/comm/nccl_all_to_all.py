# SPDX-License-Identifier: Apache-2.0
"""Two all-to-alls of the process group, with rows to each rank as long as they are: NCCL on GPUs, gloo on the CPU.

The host must know how many rows go where, so each dispatch waits for the device and exchanges counts first. A CUDA
graph cannot: it repeats the plan of the last call before its capture, and stops if the routing is another one then.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._wire import Wire, wire
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "all_to_all of the process group, counts first (a CUDA graph: those of the call before its capture)",
    "needs": ["torch", "triton"],
    "source": "moe_lab",
    "layout": "standard",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
}


@dataclass(frozen=True)
class Plan:
    """Which rows go where.

    Attributes:
        needed: [ranks, M] bool: a token has experts on a rank.
        ranks: [n] of each row that is sent, in order.
        tokens: [n], whose rows they are.
        sent: rows to each rank.
        received: rows from each rank.
    """

    needed: Tensor
    ranks: Tensor
    tokens: Tensor
    sent: list[int]
    received: list[int]


@dataclass
class Room:
    """How tokens travel, and the plans of the latest call of each number of tokens."""

    wire: Wire
    plans: dict[int, Plan] = field(default_factory=dict)


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Return the room of calls; see ``_wire.wire`` for errors."""
    return Room(wire(parallel, sizes))


def dispatch(
    x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark, room: Room
) -> Received:
    """Send every token once to each rank that holds experts of it.

    Args:
        x: [M, K].
        topk_ids: [M, topk] integer, -1 = dropped.
        topk_weights: [M, topk] fp32.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    with mark("dispatch"):
        here, numbers = room.wire.pairs(topk_ids)
        plan = room.plans[len(x)] = _plan(here.any(dim=2), room.plans.get(len(x)))
        ids = torch.where(here, numbers, -1)[plan.ranks, plan.tokens]
        messages = room.wire.packed(room.wire.rows(x)[plan.tokens], ids, topk_weights[plan.tokens])
        arrived = _exchange(messages, plan.sent, plan.received)
        return Received(*room.wire.unpacked(arrived), state=plan)


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: the sums of each rank's experts [tokens, K], sent back and added up in fp32."""
    plan: Plan = received.state
    with mark("combine"):
        back = _exchange(rows, plan.received, plan.sent)
        y = torch.zeros((plan.needed.shape[1], rows.shape[1]), dtype=torch.float32, device=rows.device)
        return y.index_add_(0, plan.tokens, back.float()).to(rows.dtype)


def _plan(needed: Tensor, before: Plan | None) -> Plan:
    """Return the plan for needed [ranks, M]; in a capture that of the call before it."""
    if needed.is_cuda and torch.cuda.is_current_stream_capturing():
        assert before is not None  # every capture comes after a call that warms up
        torch._assert_async((needed == before.needed).all())
        return before
    ranks, tokens = needed.nonzero(as_tuple=True)
    counts = needed.sum(dim=1)
    theirs = torch.empty_like(counts)
    distributed.all_to_all_single(theirs, counts)
    return Plan(needed, ranks, tokens, counts.tolist(), theirs.tolist())


def _exchange(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send rows [n, ...] in parts of these lengths, one to each rank, and return what the others sent."""
    arrived = rows.new_empty((sum(received), *rows.shape[1:]))
    distributed.all_to_all_single(arrived, rows.contiguous(), received, sent)
    return arrived
