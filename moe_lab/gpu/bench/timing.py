"""How calls are timed on a GPU: graph replay or eager, interleaved, with a cold L2 cache."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.kernels._device import l2_cache_bytes
from moe_lab.gpu.kernels.nothing import launch_nothing


class CacheFlush:
    """Overwrites the L2 cache of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(4 * max(l2_cache_bytes(device), 1 << 24), dtype=torch.int8, device=device)

    def __call__(self) -> None:
        """Write four times the size of the cache; does not wait."""
        self._memory.zero_()


@cache
def cache_flush(device: torch.device) -> CacheFlush:
    """Return the one flush of a device: its memory is several times the cache."""
    return CacheFlush(device)


def copy_bandwidth(device: torch.device, size: int = 1 << 30) -> float:
    """Return the bytes per second, read plus written, of the fastest of ten copies of ``size`` bytes on the device."""
    return 2 * size / min(copy_seconds(device, size, 10))


def copy_seconds(device: torch.device, size: int, repeats: int) -> list[float]:
    """Return the seconds of copies of ``size`` bytes on the device."""
    source = torch.empty(size, dtype=torch.int8, device=device).zero_()
    target = torch.empty_like(source)
    return seconds(lambda: target.copy_(source), repeats)


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds that each of several calls keeps the GPU busy, one right after the other."""
    pairs = []
    for _ in range(repeats):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        call()
        last.record()
        pairs.append((first, last))
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1e3 for first, last in pairs]


def prepare(call: Callable[[], object], mode: str) -> Callable[[], object]:
    """Warm ``call`` up and return what a repetition runs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    if mode != "graph":
        return call
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> object:
        graph.replay()
        return result, call  # the graph does not keep the memory that it uses; the call does

    replay()
    torch.cuda.synchronize()
    return replay


def interleave(
    steps: dict[Any, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[Any, list[float]]:
    """Run every step once a round, in a new order each round, with a cold L2 cache; return the microseconds of each.

    The order changes because a step leaves its own instructions in the multiprocessors' caches to a like one after it.
    """
    flush = cache_flush(device)
    shuffle = random.Random(0).shuffle
    times: dict[Any, list[float]] = {key: [] for key in steps}
    for _ in range(repetitions):
        events = {}
        shuffle(order := list(steps))
        for key in order:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush()
            first.record()
            steps[key]()
            last.record()
            events[key] = first, last
        torch.cuda.synchronize()
        for key, (first, last) in events.items():
            times[key].append(first.elapsed_time(last) * 1e3)
    return times


def quantiles_us(times: Sequence[float]) -> dict[str, float]:
    """Return median_us, p20_us and p80_us of times in microseconds."""
    low, median, high = (
        torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    )
    return {"median_us": round(median, 3), "p20_us": round(low, 3), "p80_us": round(high, 3)}


def operations(calls: dict[str, Callable[[], object]], separator: Tensor) -> dict[str, list[tuple[str, float]] | None]:
    """Return the GPU operations (name, microseconds, caches warm) of one call of each; None where no profiler answers.

    Args:
        calls: what to run, warmed up before.
        separator: a tensor on the GPU; an empty kernel on it is launched before each call.
    """
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for call in calls.values():
            launch_nothing(separator)
            call()
        torch.cuda.synchronize()
    cuda = torch._C._autograd.DeviceType.CUDA
    events = sorted((e for e in profiler.events() or [] if e.device_type == cuda), key=lambda e: e.time_range.start)
    groups: list[list[tuple[str, float]]] = []
    for event in events:
        if event.name.startswith("nothing_kernel"):
            groups.append([])
        elif groups:
            groups[-1].append((event.name[:60], round(event.time_range.elapsed_us(), 3)))
    if len(groups) != len(calls):
        return dict.fromkeys(calls)
    return dict(zip(calls, groups, strict=True))


@contextmanager
def no_stderr() -> Iterator[None]:
    """Throw away what is written to file descriptor 2: a failing compiler pass prints its whole input there."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
