"""How backends are timed: interleaved, the cache cold, clocks noted; on the CPU by the wall clock, for tests."""

import time
from collections.abc import Callable
from typing import Any

import torch

from moe_lab.gpu.bench.nvml import Monitor, Sample
from moe_lab.gpu.bench.roofs import read_flush
from moe_lab.gpu.bench.timing import prepare

Step = Callable[[], object]
SAMPLES = 4  # of the clocks, a case


def ready(call: Step, mode: str, device: torch.device) -> Step:
    """Warm ``call`` up and return what a repetition runs: a graph's replay, or the call itself."""
    if device.type == "cuda":
        return prepare(call, mode)
    call()
    return call


def interleave(
    steps: dict[Any, Step], repetitions: int, device: torch.device, monitor: Monitor | None, careful: Callable[..., Any]
) -> tuple[dict[Any, list[float]], list[Sample]]:
    """Run every step once a round, each round beginning with another one, and return the microseconds of each.

    Args:
        steps: what to run.
        repetitions: rounds.
        device: where they run.
        monitor: asked for the clocks in some rounds, while the GPU is at work.
        careful: called with a step's key before it runs; returns whether to wait for the step, so that a failure of the
            GPU can be told from the steps around it. Times are then not worse, but the queue is emptier.
    """
    times: dict[Any, list[float]] = {key: [] for key in steps}
    samples: list[Sample] = []
    order = list(steps)
    asked = {round(i * (repetitions - 1) / max(1, SAMPLES - 1)) for i in range(SAMPLES)}
    for number in range(repetitions):
        turn = number % max(1, len(order))
        if device.type == "cpu":
            for key in order[turn:] + order[:turn]:
                careful(key)
                began = time.perf_counter()
                steps[key]()
                times[key].append((time.perf_counter() - began) * 1e6)
            continue
        events = {}
        for key in order[turn:] + order[:turn]:
            wait = careful(key)
            events[key] = _timed(steps[key], device)
            if wait:
                torch.cuda.synchronize()
        if monitor and number in asked:
            samples.append(monitor.sample())
        torch.cuda.synchronize()
        for key, (first, last) in events.items():
            times[key].append(first.elapsed_time(last) * 1e3)
    return times, samples


def _timed(step: Step, device: torch.device) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    read_flush(device)()
    first.record()
    step()
    last.record()
    return first, last
