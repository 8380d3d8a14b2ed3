# SPDX-License-Identifier: Apache-2.0
"""A single stage of a backend, and the kernels that each stage launches, for any backend that marks its stages.

A stage is timed by capturing a CUDA graph of it while the whole backend runs: the stage's kernels are recorded when the
backend enters the stage, and the graph is launched when it leaves, so the result that is checked went through it. Every
tensor of that run is kept, so that the graph's inputs stay valid as long as it is replayed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moe_lab.gpu.kernels.nothing import launch_nothing
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import DTYPE_BYTES, MoEProblem
from moe_lab.spec.ranges import Mark, stages_of

Call = Callable[[Mark], Any]


class KeepAll(TorchDispatchMode):
    """Keeps every tensor that an operator returns: a graph replays with their addresses, which must not be reused."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and keep its result."""
        result = func(*args, **(kwargs or {}))
        self.kept.append(result)
        return result


@dataclass
class Stage:
    """A captured stage.

    Attributes:
        name: of the stage that contains the part, such as ``w13+act``.
        graph: its CUDA graph.
        result: output [M, K] of the run in which it was captured.
        kept: all tensors of that run.
    """

    name: str = ""
    graph: Any = None
    result: Tensor | None = None
    kept: list[Any] = field(default_factory=list)

    def replay(self) -> None:
        """Replay the graph; as a bound method, it keeps the graph's tensors alive for whoever times it."""
        self.graph.replay()


def capture(call: Call, part: str, new_graph: Callable[[], Any] = torch.cuda.CUDAGraph) -> Stage:
    """Return the stage of a backend that does ``part``, captured as a graph.

    Args:
        call: runs the backend, which is already warm, and returns its output [M, K].
        part: ``w13`` or ``w2``.
        new_graph: makes an empty graph.

    Raises:
        UserError: the backend has no separate stage for the part, or enters it several times.
    """
    stage, keep = Stage(), KeepAll()

    @contextmanager
    def captured(name: str) -> Iterator[None]:
        if stage.name:
            raise UserError(f"the stage {name} is entered several times, so it cannot be timed by itself")
        stage.name, stage.graph = name, new_graph()
        with torch.cuda.graph(stage.graph):
            yield
        stage.graph.replay()  # capturing runs nothing, and later stages need the result

    def mark(name: str) -> AbstractContextManager[None]:
        parts = stages_of(name)
        return captured(name) if part in parts and not {"w13", "w2"} <= set(parts) else nullcontext()

    with keep:
        stage.result = call(mark)
    if not stage.name:
        raise UserError(f"it has no separate stage for {part}")
    stage.kept = keep.kept
    return stage


def minimum_bytes(problem: MoEProblem, hit: int, stage: str) -> int:
    """Return the least bytes that a stage moves: with a fused activation or sum it writes less than the GEMM alone.

    Args:
        problem: sizes and dtype.
        hit: distinct experts with at least one token.
        stage: such as ``full``, ``w13``, ``w13+act``, ``w2+combine``.
    """
    parts = stages_of(stage)
    if stage == "full" or {"w13", "w2"} <= set(parts):
        return problem.minimum_bytes(hit)
    size = problem.minimum_bytes(hit, "w13" if "w13" in parts else "w2")
    # N instead of 2N columns for each row, if there is a gate; one row for each token instead of each pair.
    saved = problem.rows_useful * (problem.rows13 - problem.N) if {"w13", "act"} <= set(parts) else 0
    saved += (problem.rows_useful - problem.M) * problem.K if {"w2", "combine"} <= set(parts) else 0
    return size - saved * DTYPE_BYTES[problem.dtype]


def trace(
    calls: Mapping[str, Call], separator: Tensor, flush: Callable[[], None], repeats: int = 3
) -> dict[str, list[tuple[str, float]] | None]:
    """Return the kernels of one eager call of each backend, with a cold L2: (``<stage>|<kernel>``, microseconds).

    Empty kernels mark where stages begin and end. Times are medians over the repeats; None without a working profiler.

    Args:
        calls: what to run, already warm.
        separator: a tensor on the GPU, which the empty kernels take.
        flush: makes the cache cold.
        repeats: calls of each.
    """
    from torch.profiler import ProfilerActivity, profile

    entered: list[str] = []

    # By kernels, not by the profiler's own ranges: those lie on the host's timeline, and launches run later.
    def begin(name: str) -> None:
        entered.append(name)
        launch_nothing(separator)

    @contextmanager
    def mark(name: str) -> Iterator[None]:
        begin(name)
        yield
        begin("other")

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for name, call in calls.items():
            for _ in range(repeats):
                begin("(flush)")
                flush()
                begin(f"={name}")
                call(mark)
        torch.cuda.synchronize()
    cuda = torch._C._autograd.DeviceType.CUDA
    events = sorted((e for e in profiler.events() or [] if e.device_type == cuda), key=lambda e: e.time_range.start)
    return sort_out([(e.name, float(e.time_range.elapsed_us())) for e in events], entered, list(calls), repeats)


def sort_out(
    events: list[tuple[str, float]], entered: list[str], names: list[str], repeats: int
) -> dict[str, list[tuple[str, float]] | None]:
    """Assign every GPU operation to the stage whose separator it follows; see ``trace``."""
    # If the profiler lost a separator, every later kernel would count for the wrong stage.
    if sum(name.startswith("nothing_kernel") for name, _ in events) != len(entered):
        return dict.fromkeys(names)
    runs: dict[str, list[list[tuple[str, float]]]] = {name: [] for name in names}
    marks, backend, stage = iter(entered), "", "(flush)"
    for name, us in events:
        if name.startswith("nothing_kernel"):
            stage = next(marks)
            if stage.startswith("="):
                backend, stage = stage[1:], "other"
                runs[backend].append([])
        elif stage != "(flush)" and backend:
            runs[backend][-1].append((f"{stage}|{name[:60]}", us))
    return {name: _median(found) if len(found) == repeats else None for name, found in runs.items()}


def _median(runs: list[list[tuple[str, float]]]) -> list[tuple[str, float]]:
    # A call may launch other kernels than the first one did; times of different kernels have no median.
    same = [run for run in runs if [n for n, _ in run] == [n for n, _ in runs[0]]]
    return [(name, round(median(run[i][1] for run in same), 3)) for i, (name, _) in enumerate(runs[0])]
