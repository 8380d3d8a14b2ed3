# SPDX-License-Identifier: Apache-2.0
"""One backend on one input: is it right, how much memory does it need, and which steps are timed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.align import counted, padded
from moe_lab.gpu.bench import stages
from moe_lab.gpu.bench.align import one_line
from moe_lab.gpu.bench.check import Errors, Inputs, Oracle
from moe_lab.gpu.bench.clock import Step, no_stderr, ready
from moe_lab.gpu.experts import load
from moe_lab.gpu.formats import quantise
from moe_lab.gpu.weights import expert_weights
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import marker

SILENT = marker("none")


@dataclass(frozen=True)
class Plan:
    """What to measure in every case.

    Attributes:
        backends: names, or ``name@version`` of a peer.
        parts: some of ``full``, ``w13``, ``w2``; the latter two are replayed from a graph of their stage.
        modes: some of ``graph``, ``eager``.
        repetitions: timed rounds.
        kernels: whether to profile a call kernel by kernel too.
        roofs: of ``roofs.measure``; empty = no shares of them.
    """

    backends: Sequence[str]
    parts: Sequence[str] = ("full",)
    modes: Sequence[str] = ("graph",)
    repetitions: int = 50
    kernels: bool = True
    roofs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Entry:
    """A backend in a case: fields of its rows, steps to time, names of stages, and errors by part or mode."""

    facts: dict[str, Any] = field(default_factory=dict)
    steps: dict[tuple[str, str], Step] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    call: Callable[[Any], Tensor] | None = None


class BrokenError(Exception):
    """The GPU no longer responds: this process can measure nothing more."""


class Weights:
    """The weights of one model in a format, and what each backend prepared from them, made once.

    Attributes:
        case: names of the model and of the format.
        w13: [E, 2N, K], gate rows then up rows; with biases if the problem has some.
        w2: [E, K, N]; likewise.
        plain: both before quantisation; None = they are not quantised.
    """

    def __init__(self, problem: MoEProblem, device: torch.device, seed: int):
        """Draw normal weights with standard deviation 1 / sqrt(fan_in)."""
        self.case = problem.model, problem.format
        drawn = expert_weights(problem, device, seed)
        self.w13, self.w2 = (quantise(w, problem.format) for w in drawn)
        self.plain = None if self.w13 is drawn[0] else drawn
        self._prepared: dict[str, Any] = {}

    def of(self, name: str, backend: Any) -> Any:
        """Return (w13, w2) as the backend wants them."""
        if not hasattr(backend, "prepare"):
            return self.w13, self.w2
        if name not in self._prepared:
            self._prepared[name] = backend.prepare(self.w13, self.w2)
        return self._prepared[name]


def guard(entry: Entry, examine: Callable[[], None]) -> None:
    """Record the failure of a backend as its error; BrokenError if the GPU does not respond after it."""
    try:
        with no_stderr():
            examine()
    except Exception as error:  # whatever it is, the others are still measured
        said = str(error)[:300] if isinstance(error, UserError) else one_line(error)
        entry.errors["full"], entry.steps, entry.call = said, {}, None
        if torch.cuda.is_available() and not answers():
            raise BrokenError(one_line(error)) from error


def answers() -> bool:
    """Return whether the GPU still responds."""
    try:
        torch.cuda.synchronize()  # after a fault every call in the process fails
    except Exception:
        return False
    return True


def examine(
    name: str, entry: Entry, problem: MoEProblem, plan: Plan, weights: Weights, inputs: Inputs, oracle: Oracle
) -> None:
    """Run a backend once, compare its result with the oracle, and prepare the steps to time.

    Raises:
        UserError: it is wrong, or cannot do this; its own errors are passed on.
    """
    backend, info = load(name)
    refuse(name, info, problem, inputs.x.device)
    prepared = weights.of(name, backend)
    release = getattr(getattr(backend, "peer", None), "version", None)
    entry.facts = {"version": release, "rows_padded": _padded(backend, problem, inputs.topk_ids)}

    def call(mark: Any = SILENT) -> Tensor:
        return backend.experts(inputs.x, *prepared, *inputs[3:], problem=problem, mark=mark)  # type: ignore[no-any-return]

    y, entry.facts["workspace_bytes"] = _peak(call, inputs.x.device)
    tf32 = info.get("fp32") == "tf32"
    _compare(name, oracle, y, entry, tf32)
    del y  # its memory is needed for the captures
    for mode in plan.modes:
        if mode == "graph" and not info.get("cuda_graph", False):
            entry.errors[mode] = f"{name} waits for the GPU and cannot be captured"
            continue
        entry.steps["full", mode] = step = ready(call, mode, inputs.x.device)
        _compare(name, oracle, result_of(step()), entry, tf32)
    entry.call = call
    for part in (part for part in plan.parts if part != "full"):
        if inputs.x.device.type == "cpu":
            entry.errors[part] = "a single stage is replayed from a CUDA graph, which needs a GPU"
            continue
        try:
            stage = stages.capture(call, part)
        except UserError as error:
            entry.errors[part] = f"{name}: {error}"
            continue
        assert stage.result is not None
        _compare(name, oracle, stage.result, entry, tf32)  # made by the graph
        entry.stages[part], entry.steps[part, "graph"] = stage.name, stage.replay


def result_of(returned: Any) -> Tensor:
    """Return the output of a step: a replay of ``clock.ready`` returns it together with what keeps its memory alive."""
    result: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return result


def _padded(backend: Any, problem: MoEProblem, topk_ids: Tensor) -> int | None:
    """Return the rows with each expert padded to the backend's tiles; None if it does not state their size."""
    if not hasattr(backend, "block_m"):
        return None
    return int(padded(counted(topk_ids, problem.E), backend.block_m(problem)).sum())


def refuse(name: str, info: dict[str, Any], problem: MoEProblem, device: torch.device) -> None:
    """Raise UserError if a backend's INFO excludes the problem's format, activation, biases or sizes."""
    named = info.get("cpu_formats", info["formats"]) if device.type == "cpu" else info["formats"]
    if not formats.get(problem.format).among(named):
        if not named:
            raise UserError(f"{name} does not run on the CPU; choose another backend, such as torch_loop.")
        raise UserError(f"{name} does not take {problem.format} here, only: {', '.join(named)}.")
    if problem.activation not in info["activations"]:
        raise UserError(f"{name} does not have {problem.activation}, only: {', '.join(info['activations'])}.")
    if problem.biases and not formats.adds_biases(info, problem.format):
        where = f" in {problem.format}" if info.get("biases") else ""
        raise UserError(
            f"{name} adds no biases{where}, which the experts have; choose one that does, such as fused_moe."
        )
    multiple = info.get("multiple_of", 1)
    if problem.K % multiple or problem.N % multiple:
        raise UserError(f"{name} needs K and N to be multiples of {multiple}, not {problem.K} and {problem.N}.")


def _compare(name: str, oracle: Oracle, y: Tensor, entry: Entry, tf32: bool) -> None:
    """Record the largest errors so far as facts; UserError if they exceed the bound.

    ``tf32``: for a backend that multiplies fp32 in tf32.
    """
    found: Errors = oracle.errors(y, tf32)
    kept = {"max_rel": found.max_rel, "rms_rel": found.rms_rel, "vs_bf16_rms_rel": found.plain_rms_rel}
    for key, value in ((f"error_{name}", value) for name, value in kept.items()):
        # JSON has no infinity: what is not finite becomes None, and the row says why it is wrong.
        entry.facts[key] = max(value, entry.facts.get(key) or 0.0) if math.isfinite(value) else None
    entry.facts["correct"] = oracle.right(found, tf32)
    if not entry.facts["correct"]:
        raise UserError(
            f"{name} is wrong: largest error {found.max_rel:.2g}, RMS {found.rms_rel:.2g} (allowed "
            f"{oracle.bound_of(tf32).rms_rel:.2g}); the worst element is off by {found.share:.2g} times what is allowed"
        )


def _peak(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, int | None]:
    """Return the result of a call, and the most bytes that it held at once, its result included."""
    y = call()  # a first call also compiles and fills caches, whose memory is not part of a call
    if device.type == "cpu":
        return y, None
    del y
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    y = call()
    torch.cuda.synchronize()
    return y, torch.cuda.max_memory_allocated(device) - before
