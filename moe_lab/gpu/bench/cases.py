# SPDX-License-Identifier: Apache-2.0
"""One case of the experts benchmark: the same tokens, weights and routing through every backend; prints nothing.

A backend that fails, is wrong or cannot do the case gets rows with an error instead of times, and the others are
measured all the same. A failure that leaves the GPU unusable ends the process: see ``supervise``.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from moe_lab.gpu.align import counted
from moe_lab.gpu.bench import stages
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.bench.clock import interleave, quantiles_us, read_flush
from moe_lab.gpu.bench.examine import Entry, Plan, Weights, examine, guard
from moe_lab.gpu.bench.nvml import Monitor, summary
from moe_lab.gpu.bench.rates import rates
from moe_lab.gpu.routing import Routing
from moe_lab.gpu.weights import drawn, tokens
from moe_lab.spec.problem import MoEProblem

Note = Callable[[str, str], None]


@dataclass(frozen=True)
class ExpertsCase:
    """One input of the experts benchmark.

    Attributes:
        problem: sizes, format, activation and the name of the model.
        routing: a spec of ``moe_lab.gpu.routing.synthetic``.
        seed: of weights, tokens and routing.
    """

    problem: MoEProblem
    routing: str = "uniform"
    seed: int = 0

    @property
    def key(self) -> list[Any]:
        """The values that together identify the case in a run."""
        return [self.problem.model, self.problem.M, self.problem.format, self.routing, self.seed]


def experts_rows(
    case: ExpertsCase,
    plan: Plan,
    weights: Weights | None,
    *,
    device: torch.device,
    monitor: Monitor | None = None,
    left_out: dict[str, str] | None = None,
    note: Note = lambda backend, step: None,
    careful: bool = False,
) -> list[dict[str, Any]]:
    """Check every backend on one input, then time them interleaved.

    Args:
        case: the input.
        plan: what to measure.
        weights: of the case's model; None if every backend is left out.
        device: the GPU, or the CPU in tests.
        monitor: reads clocks, temperature and power.
        left_out: backend -> why it is not run here, which becomes its error.
        note: called before each step with a backend, or "" for several, and the step.
        careful: whether to note each timed call too, and wait for it.

    Returns:
        One row per backend, part and mode, times in microseconds; None where there is an error or the value is unknown.

    Raises:
        BrokenError: the GPU no longer responds.
    """
    p = case.problem
    routing = drawn(case.routing, p, seed=case.seed, device=device)
    counts = counted(routing.topk_ids, p.E)
    entries, oracle = _examined(case, plan, weights, routing, left_out or {}, note)
    times, clocks = _time(entries, plan, device, monitor, note, careful)
    traced = _trace(entries, plan, device, routing.topk_ids, note)
    fixed = _fixed(case, plan, counts, oracle)
    rows = [
        fixed | entries[name].facts | clocks | _row((name, part, mode), entries[name], times, fixed, p, plan, traced)
        for name in plan.backends
        for part in plan.parts
        for mode in (plan.modes if part == "full" else ["graph"])  # a single stage can only be replayed
    ]
    entries.clear()  # its graphs hold the memory that the next case needs
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def _examined(
    case: ExpertsCase,
    plan: Plan,
    weights: Weights | None,
    routing: Routing,
    left_out: dict[str, str],
    note: Note,
) -> tuple[dict[str, Entry], Oracle | None]:
    """Return an entry for every backend, and the oracle, or None for it if no backend is to be run."""
    entries = {name: Entry(errors={"full": left_out[name]} if name in left_out else {}) for name in plan.backends}
    if weights is None or set(plan.backends) <= set(left_out):
        return entries, None
    p, device = case.problem, routing.topk_ids.device
    x = tokens(p, device, case.seed)
    inputs = Inputs(x, weights.w13, weights.w2, *routing)
    note("", "oracle")  # before the step: if the process dies, the last note says in what
    oracle = Oracle(inputs, p, Inputs(x, *weights.plain, *routing) if weights.plain else None)
    for name in plan.backends:
        if name not in left_out:
            note(name, "check")
            guard(entries[name], partial(examine, name, entries[name], p, plan, weights, inputs, oracle))
    return entries, oracle


def _time(
    entries: dict[str, Entry],
    plan: Plan,
    device: torch.device,
    monitor: Monitor | None,
    note: Note,
    careful: bool,
) -> tuple[dict[Any, list[float]], dict[str, Any]]:
    steps = {(name, *key): step for name, entry in entries.items() for key, step in entry.steps.items()}

    def look(key: tuple[str, str, str]) -> bool:
        if careful:
            note(key[0], f"time {key[1]} {key[2]}")
        return careful

    note("", "time")
    times, samples = interleave(steps, plan.repetitions, device, monitor, look)
    return times, summary(samples)


def _trace(
    entries: dict[str, Entry], plan: Plan, device: torch.device, separator: torch.Tensor, note: Note
) -> dict[str, Any]:
    calls = {name: entry.call for name, entry in entries.items() if entry.call}
    if not plan.kernels or device.type == "cpu" or not calls or not separator.numel():
        return {}
    note("", "trace")
    try:
        return stages.trace(calls, separator, read_flush(device))
    except RuntimeError:  # without a profiler only the split by kernel is missing, not the times
        return {}


def _fixed(case: ExpertsCase, plan: Plan, counts: torch.Tensor, oracle: Oracle | None) -> dict[str, Any]:
    """Return the fields that every row of the case has, with None for those that a backend may not know."""
    p = case.problem
    return p.facts() | {
        "routing": case.routing,
        "seed": case.seed,
        "experts_hit": int((counts > 0).sum()),
        "rows_useful": p.rows_useful,
        "rows_most": int(counts.max()) if p.M else 0,
        "repetitions": plan.repetitions,
        "bound_max_rel": oracle and oracle.bound.max_rel,
        "bound_rms_rel": oracle and oracle.bound.rms_rel,
        **dict.fromkeys(("version", "rows_padded", "workspace_bytes", "correct", "error_max_rel", "error_rms_rel")),
        "error_vs_bf16_rms_rel": None,
    }


def _row(
    key: tuple[str, str, str],
    entry: Entry,
    times: dict[Any, list[float]],
    fixed: dict[str, Any],
    problem: MoEProblem,
    plan: Plan,
    traced: dict[str, Any],
) -> dict[str, Any]:
    """Return the fields of a row that differ by part and mode."""
    (name, part, mode), measured = key, times.get(key)
    # An error of the whole call explains everything, one of the part or of the mode only its rows.
    error = entry.errors.get("full") or entry.errors.get(part) or entry.errors.get(mode)
    stage = entry.stages.get(part, part)
    timed = quantiles_us(measured) if measured else dict.fromkeys(("median_us", "p20_us", "p80_us"))
    return {
        "backend": name,
        "part": part,
        "stage": stage if measured else None,
        "mode": mode,
        **timed,
        **rates(problem, fixed["experts_hit"], entry.facts.get("rows_padded"), stage, timed["median_us"], plan.roofs),
        "kernels_us": traced.get(name) if key[1:] == ("full", plan.modes[0]) else None,
        "error": None if measured else error or "it was not measured",
    }
