# SPDX-License-Identifier: Apache-2.0
"""What a profiled process needs: the range API of this machine, and the window for which a profiler waits."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import distributed

from moe_lab.spec import ranges


def range_api() -> str:
    """Return $MOE_LAB_RANGES, else the API of this machine: ``nvtx``, ``roctx`` on ROCm, or ``none`` with a warning."""
    if os.environ.get("MOE_LAB_RANGES"):
        return os.environ["MOE_LAB_RANGES"]
    if torch.version.hip is not None:
        return "roctx"
    if find_spec("nvtx"):
        return "nvtx"
    say("the nvtx package is missing, so a profile has no ranges: pip install nvtx")
    return "none"


@contextmanager
def profiler_window(device: str) -> Iterator[None]:
    """Open the window for which ``nsys --capture-range=cudaProfilerApi`` and ``ncu --profile-from-start off`` wait."""
    if device == "cpu" or torch.version.hip is not None:
        yield
        return
    torch.cuda.profiler.start()
    # Of several ranks the first that starts opens the window for all, and the first that stops closes it.
    meet()
    try:
        yield
        meet()
    finally:
        torch.cuda.profiler.stop()


def meet() -> None:
    """Wait until all ranks have come here with all that they launched; return at once where there is only one."""
    if distributed.is_initialized():
        distributed.barrier()


def cache_flush(device: str) -> Callable[[], object]:
    """Return a function that makes the L2 cache of this GPU cold, in a range ``flush``; it does nothing on the CPU."""
    if device == "cpu":
        return lambda: None
    from moe_lab.gpu.bench.clock import read_flush

    read, mark = read_flush(torch.device("cuda", torch.cuda.current_device())), ranges.marker(range_api())

    def flush() -> None:
        with mark("flush"):
            read()

    return flush


def run_all(
    calls: Sequence[tuple[str, Callable[[ranges.Mark], object]]], iterations: int, device: str, warm: bool = False
) -> None:
    """Make calls, each in its root range, inside the profiler window; ``warm`` leaves the cache as it is."""
    silent, flush = ranges.marker("none"), cache_flush("cpu" if warm else device)
    flush()  # compiles its kernel before the window opens
    for _, call in [*calls, *calls]:  # compiles kernels, makes workspaces
        call(silent)
    mark = ranges.marker(range_api())
    with profiler_window(device):
        for _ in range(iterations):
            for root, call in calls:
                flush()
                with mark(root):
                    call(mark)
        if device == "cuda":  # else the window would close before the last kernels have run
            torch.cuda.synchronize()


def say(sentence: str) -> None:
    """Print a sentence to stderr; stdout is for the result."""
    sys.stderr.write(f"moe_lab.gpu: {sentence}\n")  # at once: ranks share the terminal
