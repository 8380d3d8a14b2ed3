# SPDX-License-Identifier: Apache-2.0
"""Ranks that measure together: they meet before each step, and learn what the others found.

The clock is that of ``clock``, with a meeting more: the L2 cache is made cold by a read, the GPU spins until the host
has queued all that follows, all ranks meet on the device by an all_reduce, and only then is the first event.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, distributed

from moe_lab.gpu.bench.align import one_line
from moe_lab.gpu.bench.clock import Step, one_us, read_flush
from moe_lab.spec.errors import UserError

SPIN_CYCLES = 400_000  # some 0.2 ms


class AgreedError(UserError):
    """A failure of which all ranks know already."""


def every(own: Any) -> list[Any]:
    """Return what each rank gives; all do so together."""
    given: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(given, own)
    return given


def first(said: str | None) -> str | None:
    """Return what the first rank says that says something, with its number; all ranks ask together."""
    return next((f"rank {rank}: {text}" for rank, text in enumerate(every(said)) if text), None)


def attempt(work: Callable[[], None]) -> str | None:
    """Do something on every rank; return why it failed on the first of those where it did, None = on none."""
    said = None
    try:
        work()
    except AgreedError as error:
        return str(error)
    except Exception as error:  # whatever it is, the rest is still measured
        said = str(error)[:300] if isinstance(error, UserError) else one_line(error)
    return first(said)


def timed(sequences: Mapping[str, Sequence[Step]], repetitions: int, device: torch.device) -> dict[str, Tensor]:
    """Run every sequence of steps once per round, in a new order each round; all ranks do so together.

    Args:
        sequences: by name, the same names on all ranks.
        repetitions: rounds.
        device: of this rank.

    Returns:
        name -> microseconds of each step of the sequence, [ranks, repetitions, steps] fp64.
    """
    own: dict[str, list[list[float]]] = {name: [] for name in sequences}
    shuffle = random.Random(0).shuffle  # seeded: all ranks take the same order
    for _ in range(repetitions):
        shuffle(order := list(sequences))
        for name in order:
            own[name].append(laps_us(sequences[name], device))
    found = every(own)
    return {name: torch.tensor([of[name] for of in found], dtype=torch.float64) for name in sequences}


def laps_us(steps: Sequence[Step], device: torch.device) -> list[float]:
    """Meet the other ranks, run steps one after another, and return the microseconds of each."""
    if device.type == "cpu":
        distributed.barrier()
        return [one_us(step, device) for step in steps]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(steps) + 1)]
    read_flush(device)()
    torch.cuda._sleep(SPIN_CYCLES)
    distributed.all_reduce(_meeting(device))
    events[0].record()
    for step, event in zip(steps, events[1:], strict=True):
        step()
        event.record()
    torch.cuda.synchronize()
    return [1e3 * a.elapsed_time(b) for a, b in pairwise(events)]


@cache
def _meeting(device: torch.device) -> Tensor:
    return torch.zeros(1, device=device)
