# SPDX-License-Identifier: Apache-2.0
"""The experts part on several ranks: is it right, and what do dispatch, experts, combine and all of it take?

The ways between ranks are timed interleaved, see ``meet``; a time is that of the slowest rank. Each way is timed in one
piece; as dispatch, experts and combine one after another; and as dispatch and combine without the experts, so that no
rank waits for the experts of another one. A way that does the experts too is timed in one piece only. Shared experts,
which need no other rank, are timed by themselves too, and the whole in one piece three times: with them at its end, on
a second stream while rows travel, and among the routed experts of their rank. A way that fails on one rank is left out
on all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.bench.clock import Step, captured, quantiles_us, ready
from moe_lab.gpu.bench.examine import SILENT, Weights, result_of
from moe_lab.gpu.bench.load import Load
from moe_lab.gpu.bench.meet import AgreedError, attempt, every, first, timed
from moe_lab.gpu.ranks import RankedExperts, routed
from moe_lab.gpu.routing import Routing
from moe_lab.gpu.shared_experts import SharedExperts
from moe_lab.gpu.weights import tokens, with_shared
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem

PARTS = ("full", "dispatch", "experts", "combine")
SHARED_PARTS = ("shared", "overlapped", "fused")


@dataclass(frozen=True)
class EpCase:
    """One input: ``problem.M`` tokens on each rank, ``routing`` and ``seed`` of the batch of all ranks."""

    problem: MoEProblem
    routing: str
    seed: int

    def inputs(self, parallel: Parallel, device: torch.device) -> tuple[Tensor, Routing]:
        """Return tokens [M, K] and routing to routed experts of this rank: every rank takes its part of one batch."""
        p = self.problem
        own = routed(self.routing, p.M, p.routed, parallel, seed=self.seed, device=device)
        return tokens(p, device, self.seed + 1 + parallel.rank), own


@dataclass(frozen=True)
class EpPlan:
    """What to measure in every case.

    Attributes:
        comms: comm plugins.
        backend: experts plugin.
        repetitions: timed rounds.
        links: of ``links.measure``.
        roofs: of ``roofs.measure``; empty = no bound for the experts.
    """

    comms: Sequence[str]
    backend: str
    repetitions: int
    links: Sequence[dict[str, Any]] = ()
    roofs: dict[str, Any] = field(default_factory=dict)

    def mode(self, device: torch.device) -> str:
        """Return ``graph``, or ``eager`` where no CUDA graph can capture the backend."""
        able = plugins.info("experts", self.backend.partition("@")[0]).get("cuda_graph")
        return "graph" if device.type == "cuda" and able else "eager"


class EpWeights:
    """The weights of one model: of all experts, for the check, and this rank's as what computes the experts wants.

    Attributes:
        all: of all experts, shared ones last.
        shared: the shared experts by themselves, which every rank has; None = there are none.
    """

    def __init__(self, problem: MoEProblem, device: torch.device, seed: int):
        """Draw the weights: the same ones on all ranks."""
        self.model, self.all = problem.model, Weights(problem, device, seed)
        self.shared = SharedExperts.of(problem, self.all.w13, self.all.w2)
        self._own: dict[tuple[str, int], Any] = {}

    def of(self, layer: RankedExperts) -> Any:
        """Return this rank's weights, prepared once for each that computes the experts."""
        who = layer.computes, layer.problem.E  # with shared experts among them there are more
        if who not in self._own:
            self._own[who] = layer.prepare(self.all.w13, self.all.w2)
        return self._own[who]


@dataclass
class _Way:
    """A comm plugin in a case: fields of its rows, steps to time by name, and why there are none."""

    facts: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, list[Step]] = field(default_factory=dict)
    error: str | None = None


def ep_rows(
    case: EpCase, plan: EpPlan, parallel: Parallel, weights: EpWeights, device: torch.device
) -> list[dict[str, Any]]:
    """Check and time every way between ranks on one input; all ranks do so together, and each returns the rows.

    Args:
        case: the input.
        plan: what to measure.
        parallel: the placement.
        weights: of the case's model.
        device: of this rank.

    Returns:
        One row per way and part, times in microseconds; None where there is an error or the value is unknown.
    """
    x, routing = case.inputs(parallel, device)
    load = Load.of(case.problem, parallel, routing.topk_ids)
    everything, ids = weights.all, with_shared(routing, case.problem)
    plain = Inputs(x, *everything.plain, *ids) if everything.plain else None
    oracle = Oracle(Inputs(x, everything.w13, everything.w2, *ids), case.problem, plain)
    ways = {comm: _Way() for comm in plan.comms}
    for comm, way in ways.items():
        given = case.problem, plan, parallel, weights, x, routing, oracle
        way.error = attempt(partial(_examine, way, comm, *given))
    steps = {f"{comm}|{name}": s for comm, way in ways.items() if not way.error for name, s in way.steps.items()}
    times = timed(steps, plan.repetitions, device)
    named = case.problem.routed.facts() | {"shared": case.problem.shared}
    named |= {"routing": case.routing, "seed": case.seed, "ranks": parallel.ranks}
    named |= {"mode": plan.mode(device), "repetitions": plan.repetitions} | load.facts()
    rows = []
    for comm, way in ways.items():
        own = {name: times[f"{comm}|{name}"] for name in way.steps if not way.error}
        info = plugins.info("comm", comm)
        whole, sends = info.get("whole"), info.get("sends", "needed")
        who = {"comm": comm, "backend": comm if whole else plan.backend}
        parts = (PARTS[:1], SHARED_PARTS[:2]) if whole else (PARTS, SHARED_PARTS)
        for part in parts[0] + (parts[1] if case.problem.shared else ()):
            if part == "fused" and own and part not in own:
                continue
            row = named | who | {"part": part} | _times(part, own)
            row |= way.facts | load.rates(part, row["median_us"], sends, plan.links, plan.roofs)
            if part == "full":
                row["expert_rows"] = load.expert_rows if comm == plan.comms[0] else None
            rows.append(row | {"error": way.error})
    return rows


def _examine(
    way: _Way,
    comm: str,
    problem: MoEProblem,
    plan: EpPlan,
    parallel: Parallel,
    weights: EpWeights,
    x: Tensor,
    routing: Routing,
    oracle: Oracle,
) -> None:
    """Compare this rank's results with the layer of one process, and make the steps to time.

    Raises:
        UserError: a rank's result is wrong, or the case cannot be done.
    """
    make = partial(RankedExperts.make, device=x.device, comm=comm, backend=plan.backend)
    layer = make(problem.routed, parallel)
    own, shared, between, mode = weights.of(layer), weights.shared, layer.between, plan.mode(x.device)

    def check(y: Tensor, of: RankedExperts) -> None:
        of.between.check()
        _check(way, oracle, y)

    def whole(of: RankedExperts, routing: Routing = routing, shared: SharedExperts | None = shared) -> Step:
        call = partial(of, x, weights.of(of), *routing, SILENT, shared)
        check(call(), of)
        step = ready(call, mode, x.device)
        check(result_of(step()), of)
        return step

    way.steps["full"] = [whole(layer)]
    if shared:
        beside = make(problem.routed, parallel, overlap=True)
        way.steps |= {"overlapped": [whole(beside)], "shared": [ready(partial(shared, x), mode, x.device)]}
    if between.whole:
        return
    if shared and (among := _among(make, problem, parallel)):
        way.steps["fused"] = [whole(among, with_shared(routing, problem), None)]
    step = captured if mode == "graph" else lambda call: call
    # Captured and run in their order, as in a layer: a way may need a combine between two dispatches.
    dispatch = step(lambda: layer.dispatch(x, routing.topk_ids, routing.topk_weights, SILENT))
    got: Any = result_of(dispatch())
    experts = step(lambda: layer.compute(got, own, SILENT))
    rows = result_of(experts())
    combine = step(lambda: between.combine(rows, got, SILENT))
    y = result_of(combine())
    check(y if shared is None else shared(x, y), layer)
    way.steps |= {"split": [dispatch, experts, combine], "alone": [dispatch, combine]}


def _among(
    make: Callable[[MoEProblem, Parallel], RankedExperts], problem: MoEProblem, parallel: Parallel
) -> RankedExperts | None:
    """Return the layer with shared experts among those of each rank; None = the way takes no such placement."""
    try:
        return make(problem, parallel.everywhere(problem.shared))
    except UserError:
        return None


def _check(way: _Way, oracle: Oracle, y: Tensor) -> None:
    """Record the largest errors of any rank as facts; AgreedError if one rank's result is wrong."""
    errors, allowed = oracle.errors(y), oracle.bound.rms_rel
    said = None if oracle.right(errors) else f"wrong: RMS error {errors.rms_rel:.2g}, allowed {allowed:.2g}"
    found = map(max, zip(*every((errors.max_rel, errors.rms_rel, allowed)), strict=True))
    # JSON has no infinity: what is not finite becomes None, and the row says why it is wrong.
    worst = [value if math.isfinite(value) else None for value in found]
    way.facts.update(zip(("error_max_rel", "error_rms_rel", "bound_rms_rel"), worst, strict=True))
    wrong = first(said)  # all ranks must know, or the others would go on and wait for this one
    way.facts["correct"] = wrong is None
    if wrong:
        raise AgreedError(wrong)


def _times(part: str, own: dict[str, Tensor]) -> dict[str, Any]:
    """Return the times of a part: of the slowest rank, and on the row of all parts those of each rank."""
    if not own:
        return dict.fromkeys(("median_us", "p20_us", "p80_us", "ranks_us"))
    split = {"dispatch": ("alone", 0), "experts": ("split", 1), "combine": ("alone", 1)}
    name, at = split.get(part, (part, 0))
    slowest = own[name][:, :, at].amax(dim=0)
    return quantiles_us(slowest.tolist()) | {"ranks_us": _by_rank(own) if part == "full" and "split" in own else None}


def _by_rank(own: dict[str, Tensor]) -> list[tuple[str, float]]:
    """Return (``<rank>|<what>``, median microseconds): parts one after another, and without experts in between."""
    parts = {"split": PARTS[1:], "alone": ("dispatch alone", "combine alone")}
    return [
        (f"{rank}|{what}", round(float(own[name][rank, :, at].median()), 3))
        for rank in range(len(own["split"]))
        for name, called in parts.items()
        for at, what in enumerate(called)
    ]
