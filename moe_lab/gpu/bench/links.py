# SPDX-License-Identifier: Apache-2.0
"""What the way between each two ranks can do: bytes per second one way, and the time of one trip."""

import math
import time
from itertools import combinations, product
from typing import Any

import torch
from torch import distributed

from moe_lab.gpu.bench.clock import Step, seconds
from moe_lab.gpu.bench.meet import every, laps_us
from moe_lab.gpu.kernels.ping import ping

COPIED = 1 << 26  # bytes
COPIED_CPU = 1 << 16
REPEATS = 10
TRIES = 3
ROUNDS = 1000
ROUNDS_CPU = 5


def measure(device: torch.device) -> list[dict[str, Any]]:
    """Measure the way from each rank to each other one; all ranks do so together.

    On GPUs: the fastest of some copies into the peer's symmetric memory, and of some kernels that write there, while
    every other rank writes to a peer too; and flags that two ranks write into each other's memory in turn. On the CPU:
    messages of the process group.

    Returns:
        source, target (ranks), bytes_per_s and trip_us, of every ordered pair.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    way = _Memory(device) if device.type == "cuda" else _Messages()
    rates: dict[int, float] = {}
    trips: dict[int, float] = {}
    for offset in range(1, ranks):
        writes = way.writes((rank + offset) % ranks, (rank - offset) % ranks)
        us = [laps_us([write], device)[0] for _ in range(REPEATS) for write in writes]
        rates[(rank + offset) % ranks] = way.copied / min(us) * 1e6
    for pair, _ in product(combinations(range(ranks), 2), range(TRIES)):
        way.clear()
        distributed.barrier()
        if rank in pair:
            peer = sum(pair) - rank
            trips[peer] = min(way.trip_us(peer, rank < peer), trips.get(peer, math.inf))
        distributed.barrier()  # nobody clears its flag before both have ended
    return [
        {"source": source, "target": target, "bytes_per_s": round(rate), "trip_us": round(of[1][target], 3)}
        for source, of in enumerate(every((rates, trips)))
        for target, rate in of[0].items()
    ]


class _Memory:
    """Symmetric memory: each rank writes straight into that of another one."""

    copied = COPIED

    def __init__(self, device: torch.device):
        from torch.distributed import _symmetric_memory as symmetric

        group = distributed.group.WORLD
        assert group is not None
        self._source = torch.zeros(COPIED // 8, dtype=torch.int64, device=device)
        self._flag = symmetric.empty(COPIED // 4, dtype=torch.int32, device=device)
        self._handle = symmetric.rendezvous(self._flag, group)

    def writes(self, target: int, source: int) -> list[Step]:
        """Return steps that write ``copied`` bytes, all of them 0, to a rank: a copy, and a kernel's stores."""
        there = self._handle.get_buffer(target, (COPIED // 8,), torch.int64)
        return [lambda: there.copy_(self._source), lambda: torch.neg(self._source, out=there)]

    def clear(self) -> None:
        """Set this rank's flag to 0."""
        self._flag.zero_()
        torch.cuda.synchronize()

    def trip_us(self, peer: int, begins: bool) -> float:
        """Return the microseconds of one way to a peer, until it has seen the flag."""
        theirs = self._handle.get_buffer(peer, (1,), torch.int32)
        return seconds(lambda: ping(self._flag[:1], theirs, ROUNDS, begins), 1)[0] * 1e6 / (2 * ROUNDS)


class _Messages:
    """Messages of the process group, for ranks on the CPU."""

    copied = COPIED_CPU

    def writes(self, target: int, source: int) -> list[Step]:
        """Return the step that sends ``copied`` bytes to a rank and gets as many from another one."""
        sent, got = (torch.zeros(COPIED_CPU, dtype=torch.uint8) for _ in range(2))

        def step() -> None:
            request = distributed.isend(sent, target)
            distributed.recv(got, source)
            assert request is not None
            request.wait()

        return [step]

    def clear(self) -> None:
        """Do nothing: messages leave nothing behind."""

    def trip_us(self, peer: int, begins: bool) -> float:
        """Return the microseconds of one way to a peer."""
        word = torch.zeros(1)
        steps = (distributed.send, distributed.recv) if begins else (distributed.recv, distributed.send)
        began = time.perf_counter()
        for _ in range(ROUNDS_CPU):
            for step in steps:
                step(word, peer)
        return (time.perf_counter() - began) * 1e6 / (2 * ROUNDS_CPU)
