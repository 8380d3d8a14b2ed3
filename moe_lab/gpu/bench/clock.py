# SPDX-License-Identifier: Apache-2.0
"""The one clock: how everything here is timed.

Steps are interleaved, so that a drift of the GPU's clocks affects all of them alike, in an order that is shuffled every
round, because a step leaves its instructions in the multiprocessors' caches for a similar one that follows. Rounds that
do not count come first: right after other work, calls of 14 us took up to 1 us longer for some ten milliseconds (H100).
Before each step the L2 cache is made cold by reading four times its size: that leaves lines that need not be written
back, so the timed kernels do not pay for the flush. That the cache is cold is measured, not assumed: see
``verify_cold``. On the CPU, for tests, the wall clock is used.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from statistics import median
from typing import Any

import torch

from moe_lab.gpu.bench.nvml import Monitor, Sample
from moe_lab.gpu.kernels._device import l2_cache_bytes
from moe_lab.gpu.kernels.read import chained, follow, partial_sums, read

Step = Callable[[], object]
SAMPLES = 4  # of the clocks, per case
SETTLED_S = 0.05  # seconds of rounds that do not count
CHAINED = 1024  # reads, each of a line of its own
VERIFIED = 1.3  # a cold read takes at least this many times as long as a warm one


class ReadFlush:
    """Makes the L2 cache of a GPU cold by reading other memory."""

    def __init__(self, device: torch.device) -> None:
        size = l2_cache_bytes(device)
        self._memory = torch.zeros(max(size, 1 << 24), dtype=torch.int32, device=device)  # four bytes each
        self._sums = partial_sums(device)

    def __call__(self) -> None:
        """Read four times the size of the cache; does not wait."""
        read(self._memory, self._sums)


@cache
def read_flush(device: torch.device) -> ReadFlush:
    """Return the one flush of a device: its memory is several times the cache."""
    return ReadFlush(device)


def copy_seconds(device: torch.device, size: int, repeats: int) -> list[float]:
    """Return the seconds of copies of ``size`` bytes on the device."""
    source = torch.empty(size, dtype=torch.int8, device=device).zero_()
    target = torch.empty_like(source)
    return seconds(lambda: target.copy_(source), repeats)


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds for which each of several calls, one right after the other, keeps the GPU busy."""
    pairs = [_timed(call) for _ in range(repeats)]
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1e3 for first, last in pairs]


def warm_up(call: Step, times: int, device: torch.device) -> None:
    """Run eagerly, on a side stream as graph capture requires: this compiles kernels and makes workspaces."""
    if device.type == "cpu":
        for _ in range(times):
            call()
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(times):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()


def ready(call: Step, mode: str, device: torch.device) -> Step:
    """Warm ``call`` up and return the step to time: a CUDA graph's replay for ``graph``, else the call itself."""
    warm_up(call, 1 if device.type == "cpu" else 3, device)
    if mode != "graph" or device.type == "cpu":
        return call
    replay = captured(call)
    replay()
    torch.cuda.synchronize()
    return replay


def captured(call: Step) -> Step:
    """Return the replay of a CUDA graph of a call that is warm; nothing of it runs here."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> object:
        graph.replay()
        return result, call  # the graph does not keep its memory alive; the call does

    return replay


def interleave(
    steps: dict[Any, Step],
    repetitions: int,
    device: torch.device,
    monitor: Monitor | None = None,
    careful: Callable[[Any], bool] = lambda key: False,
) -> tuple[dict[Any, list[float]], list[Sample]]:
    """Run every step once per round, in a new order each round, and return the microseconds of each.

    On a GPU, rounds that do not count come first.

    Args:
        steps: what to run; see ``ready``.
        repetitions: rounds.
        device: where they run.
        monitor: reads the clocks in some rounds, while the GPU is busy.
        careful: called with a step's key before it runs; returns whether to wait for the step, so that a failure of the
            GPU is not blamed on its neighbours. This does not change the times; it only keeps the queue emptier.
    """
    times: dict[Any, list[float]] = {key: [] for key in steps}
    samples: list[Sample] = []
    shuffle = random.Random(0).shuffle  # seeded, so that a run can be repeated in the same order
    asked = {round(i * (repetitions - 1) / max(1, SAMPLES - 1)) for i in range(SAMPLES)}
    if device.type != "cpu":
        _settle(steps, device, careful)
    for number in range(repetitions):
        events = {}
        shuffle(order := list(steps))
        for key in order:
            wait = careful(key)
            if device.type == "cpu":
                times[key].append(one_us(steps[key], device))
                continue
            read_flush(device)()
            events[key] = _timed(steps[key])
            if wait:
                torch.cuda.synchronize()
        if events and monitor and number in asked:
            samples.append(monitor.sample())
        # Only now, so that within a round the GPU never waits for the host.
        for key, (first, last) in events.items():
            last.synchronize()
            times[key].append(first.elapsed_time(last) * 1e3)
    return times, samples


def _settle(steps: dict[Any, Step], device: torch.device, careful: Callable[[Any], bool]) -> None:
    end = time.perf_counter() + SETTLED_S
    while time.perf_counter() < end:
        for key, step in steps.items():
            wait = careful(key)
            read_flush(device)()
            step()
            if wait:
                torch.cuda.synchronize()
        torch.cuda.synchronize()


def one_us(step: Step, device: torch.device) -> float:
    """Run a step to its end and return its microseconds, by events on a GPU and the wall clock on the CPU."""
    if device.type == "cpu":
        began = time.perf_counter()
        step()
        return (time.perf_counter() - began) * 1e6
    first, last = _timed(step)
    torch.cuda.synchronize()
    us: float = first.elapsed_time(last) * 1e3
    return us


def _timed(step: Step) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    step()
    last.record()
    return first, last


def quantiles_us(times: Sequence[float]) -> dict[str, float]:
    """Return median_us, p20_us and p80_us of times in microseconds."""
    low, median, high = (
        torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    )
    return {"median_us": round(median, 3), "p20_us": round(low, 3), "p80_us": round(high, 3)}


def verify_cold(device: torch.device) -> dict[str, Any]:
    """Time dependent reads of lines that fit in the cache, once just after they were read and once after a flush.

    Latency tells the two apart; throughput does not if memory is nearly as fast as the cache (as on an H200).

    Returns:
        flush (how), buffer_bytes, warm_us, cold_us, ratio, and cold: whether the flush slowed the reads down so much
        that the cache must have been cold.
    """
    size = l2_cache_bytes(device)
    chain = chained(max(size // 4, 1 << 20) // 4, CHAINED, device)
    end = torch.empty(1, dtype=torch.int32, device=device)
    flush = read_flush(device)

    def once(cold: bool) -> float:
        # In both cases the flush keeps the GPU busy until the timed reads are queued: else their launch would be timed.
        if cold:
            follow(chain, end, CHAINED)
        flush()
        if not cold:
            follow(chain, end, CHAINED)
        return seconds(lambda: follow(chain, end, CHAINED), 1)[0] * 1e6

    once(True)  # compiles
    warm, after = (median(once(cold) for _ in range(20)) for cold in (False, True))
    return {
        "flush": f"a read of {4 * max(size, 1 << 24)} other bytes",
        "buffer_bytes": 4 * chain.numel(),
        "warm_us": round(warm, 3),
        "cold_us": round(after, 3),
        "ratio": round(after / warm, 3),
        "cold": after / warm >= VERIFIED,
    }


@contextmanager
def no_stderr() -> Iterator[None]:
    """Discard what is written to stderr: a failing compiler pass prints its whole input there."""
    kept = os.dup(2)  # the descriptor, not sys.stderr: it is C++ that prints
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
