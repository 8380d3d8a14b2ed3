# SPDX-License-Identifier: Apache-2.0
"""Ping-pong between two ranks by a flag in each other's memory: what one way over the link takes."""

import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit

POLLS = 1 << 22  # some seconds: a peer that does not come must not hang the GPU


@jit
def ping_kernel(own, theirs, rounds, polls, FIRST: tl.constexpr):
    """Send each number to ``theirs`` [1] int32 and wait for it in ``own`` [1] int32; FIRST: this rank sends first."""
    number = 1
    left = polls
    while (number <= rounds) & (left > 0):
        if FIRST:
            tl.atomic_xchg(theirs, number, sem="release", scope="sys")
        seen = tl.atomic_add(own, 0, sem="acquire", scope="sys")
        while (seen < number) & (left > 0):
            seen = tl.atomic_add(own, 0, sem="acquire", scope="sys")
            left -= 1
        if not FIRST:
            tl.atomic_xchg(theirs, number, sem="release", scope="sys")
        number += 1


def ping(own: Tensor, theirs: Tensor, rounds: int, begins: bool, polls: int = POLLS) -> None:
    """Go to and fro between this GPU and a peer; two ways a round.

    Args:
        own: [1] int32 in this GPU's memory, 0 before; the number of the last round after.
        theirs: the peer's ``own``.
        rounds: how often.
        begins: whether this rank sends first; the peer does not.
        polls: how often to look for an answer in all before the rest is given up.
    """
    check_device(own)
    ping_kernel[(1,)](own, theirs, rounds, polls, FIRST=begins, num_warps=1)
