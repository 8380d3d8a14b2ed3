# SPDX-License-Identifier: Apache-2.0
"""The steps of a tuning run, each in its share of the time budget: compile, tune every M, check the Ms in between."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_lab.gpu.bench.tune.case import Case, centres, default, shipped
from moe_lab.gpu.bench.tune.journal import Journal
from moe_lab.gpu.bench.tune.pool import Pool
from moe_lab.gpu.bench.tune.search import PARTS, Pair, finalists, halve, small
from moe_lab.gpu.bench.tune.session import Session
from moe_lab.gpu.experts._tuned import gpu
from moe_lab.spec.configs import Sizes, parse, text
from moe_lab.spec.configs.choose import finals
from moe_lab.spec.problem import MoEProblem

Plans = dict[int, dict[tuple[str, int], list[Sizes]]]

COMPILING, SEARCHING, BETWEEN = 0.45, 0.7, 0.12  # shares of the budget, of an M's time, of the budget
ROUNDS_END = (0.6, 0.85, 1.0)  # when each round ends, as a share of the search's time: the first has the most tiles


@dataclass(frozen=True)
class Budget:
    """When the tuning run began and when it should end, in seconds."""

    began: float
    until: float

    def at(self, share: float) -> float:
        """Return the time at which a share of the budget is spent."""
        return self.began + share * (self.until - self.began)


def tasks(problems: Sequence[MoEProblem], plans: Plans) -> list[dict[str, Any]]:
    """Return what to compile, each kernel once: the most promising tiles of every GEMM, block_m and kind of M first."""
    found: dict[tuple[str, Sizes, int], tuple[int, dict[str, Any]]] = {}
    # Several Ms share a small problem, and so the kernels.
    kinds = {problem.M: small(problem).M for problem in problems}
    for problem in problems:
        for (part, _), tiles in plans[problem.M].items():
            for place, tile in enumerate(tiles):
                task = {"part": part, "tile": text(tile), "M": kinds[problem.M]}
                found.setdefault((part, tile, kinds[problem.M]), (place, task))
    return [task for _, task in sorted(found.values(), key=lambda item: item[0])]


def compile_all(
    session: Session,
    problems: Sequence[MoEProblem],
    plans: Plans,
    argv: Sequence[str],
    options: argparse.Namespace,
    budget: Budget,
) -> None:
    """Compile in parallel until all is done or the share of the budget is spent; each tile gets a row.

    ``plans``: M -> (part, block_m) -> tiles; ``argv``: command of a compiling process; ``options``: jobs and patience.
    """
    from tqdm import tqdm

    # Tiles that failed have a row too, so a resumed run does not try them again.
    todo = [task for task in tasks(problems, plans) if compile_key(task) not in session.journal.rows]
    jobs = options.jobs or min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    with tqdm(total=len(todo), unit="tile", desc="compile", file=sys.stderr, mininterval=1.0, disable=None) as bar:

        def done(task: dict[str, Any], error: str | None, seconds: float) -> None:
            row = session.row(problems[0], "compile", task["part"], 0, parse(task["tile"]))
            session.journal.add(row | {"M": task["M"], "error": error, "seconds": round(seconds, 3)})
            session.note([compile_key(task)])
            bar.update()

        Pool(argv, jobs, options.patience).run(todo, budget.at(COMPILING), done)


def compile_key(task: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of the row of a compiled tile, whose M is that of the small problem."""
    tile = {part: task["tile"] if task["part"] == part else None for part in PARTS}
    return task["M"], "compile", task["part"], 0, tile["w13"], tile["w2"]


def compiled(
    journal: Journal, problem: MoEProblem, plan: dict[tuple[str, int], list[Sizes]]
) -> list[tuple[str, Sizes]]:
    """Return the tiles of a plan that compiled and ran, the most promising of every GEMM and block_m first."""
    rows, M = journal.rows, small(problem).M
    placed = [(place, part, tile) for (part, _), tiles in plan.items() for place, tile in enumerate(tiles)]
    keys = [(part, tile) for _, part, tile in sorted(placed, key=lambda item: item[0])]
    found = ((key, rows.get(compile_key({"part": key[0], "tile": text(key[1]), "M": M}))) for key in keys)
    return [key for key, row in found if row is not None and row["error"] is None]


def tune_all(
    session: Session, problems: Sequence[MoEProblem], plans: Plans, case: Callable[[int], Case], budget: Budget
) -> None:
    """Search every M that has no finalists yet, each within an equal share of the time left; see ``tune``."""
    from tqdm import tqdm

    done = {row["M"] for row in session.journal.of(phase="final")}
    left = [p for p in problems if p.M not in done]
    with tqdm(
        left, total=len(problems), initial=len(done), unit="M", desc="measure", file=sys.stderr, disable=None
    ) as bar:
        for i, problem in enumerate(bar):
            bar.set_postfix_str(f"M={problem.M}")
            now = session.now()
            # What one M leaves over is shared by those that follow.
            until = now + (budget.at(1 - BETWEEN) - now) / (len(left) - i)
            if now >= budget.until or until <= now:
                break
            tune(session, case(problem.M), plans[problem.M], until)


def tune(session: Session, case: Case, plan: dict[tuple[str, int], list[Sizes]], until: float) -> None:
    """Search the tiles of one M, then compare the finalists with the backend's default and with what engines ship.

    ``plan``: (part, block_m) -> tiles. ``until``: when to stop searching; the comparison is always done.
    """
    own, now = centres(session.backend, case.problem), session.now()
    ends = [now + share * SEARCHING * (until - now) for share in ROUNDS_END]

    def measure(keys: Sequence[Any], repetitions: int, number: int) -> dict[Any, float]:
        return session.parts(case, keys, repetitions, number, own, ends[min(number, len(ends) - 1)])

    scores = halve(compiled(session.journal, case.problem, plan), measure, session.rounds)
    reference = default(session.backend, case.problem)
    # Tiles of the engines are for a kernel like that of fused_moe; in another kernel they mean something else.
    theirs = shipped(case.problem, gpu(session.device)) if session.backend == "fused_moe" else {}
    origins: dict[Pair, list[str]] = {}
    for origin, pair in [*(("search", p) for p in finalists(scores)), ("default", reference), *theirs.items()]:
        origins.setdefault(pair, []).append(origin)
    named = {pair: ", ".join(names) for pair, names in origins.items()}
    session.wholes(case, "final", named, reference)


def judge_between(
    session: Session, middles: Sequence[tuple[int, int, int]], case: Callable[[int], Case], budget: Budget
) -> None:
    """Measure, between tuned Ms, the tiles of the Ms on both sides and their best rivals: what does the nearest cost?

    ``middles``: (M, tuned M below, tuned M above); ``case`` makes the inputs of an M.
    """
    rows = list(session.journal.rows.values())
    done = {row["M"] for row in session.journal.of(phase="between")}
    for M, low, high in middles:
        around = {key: [(parse(row["w13"]), parse(row["w2"])) for row in finals(rows, key)[:3]] for key in (low, high)}
        if M in done or not all(around.values()) or session.now() > budget.until:
            continue
        origins = {pair: "rival" for key in (high, low) for pair in around[key]}
        for key in (low, high):
            pair = around[key][0]
            origins[pair] = f"key {key}" if origins[pair] == "rival" else f"{origins[pair]}, key {key}"
        inputs = case(M)
        own = default(session.backend, inputs.problem)
        origins.setdefault(own, "default")
        session.wholes(inputs, "between", origins, own)
