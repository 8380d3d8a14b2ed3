# SPDX-License-Identifier: Apache-2.0
"""A capture of several ranks: what each rank's step consists of, what communication it does not hide, who comes last.

A step is an instance of a root range that names its rank; the n-th step of every rank is one step of all. Times of
ranks compare where one report holds them all: its clock is one. Where each rank has a report of its own, only times
within a rank are told.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.kernels import stage_column
from moe_lab.runs import Run
from moe_lab.runs.attribution.keys import Bools
from moe_lab.runs.attribution.tree import build
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.roles import builtin

OWN = re.compile(r"^(dispatch|combine)$")  # kernels of the comm plugin symmetric
ENGINES = ("nccl", "deep_ep")
OTHER = "other"
WAYS = ("dispatch", "combine")
CAPTURE = "moe-lab capture nsys --name ranks -- python -m moe_lab.gpu layer --ranks 2 --graph"


@dataclass(frozen=True)
class Capture:
    """A capture of several ranks, or the reason why there is none.

    Attributes:
        run: the run; None if there is none.
        found: its steps.
        missing: a sentence on the missing run; empty if there is one.
    """

    run: Run | None
    found: "Steps | None"
    missing: str = ""


@dataclass(frozen=True)
class Steps:
    """The operations of all steps.

    Attributes:
        table: rank, step, stage (``other`` if it lies in none), communication (bool), start_us and end_us, one row per
            operation; times of a step count from its first operation on any rank, or on its own without one clock.
        one_clock: whether times of ranks compare.
        covered_pct: kernel time of steps that lies in a stage.
    """

    table: pd.DataFrame
    one_clock: bool
    covered_pct: float


def of_run(run: Run, launches: Launches) -> Steps:
    """Return the steps of a run's launches; reports of their own have clocks of their own."""
    return steps(launches, len(run.manifest.get("reports") or []) < 2)


def steps(launches: Launches, one_clock: bool = True) -> Steps:
    """Return the operations of the steps of all ranks.

    Raises:
        UserError: no root range names a rank.
    """
    tree = build(launches, r"\|rank=")
    rows = np.flatnonzero((tree.operation_root >= 0) & launches.table["rank"].notna().to_numpy(dtype=bool))
    if not len(rows):
        raise UserError("No operation lies in a range that names a rank; capture `moe_lab.gpu layer --ranks 2`.")
    table = pd.DataFrame(
        {
            "rank": launches.table["rank"].iloc[rows].astype(int).to_numpy(),
            "root": tree.operation_root[rows],
            "stage": stage_column(tree, rows).fillna(OTHER).to_numpy(),
            "communication": travels(launches.table.iloc[rows]),
            "start_us": tree.start[rows] / 1e3,
            "end_us": tree.end[rows] / 1e3,
        }
    )
    first = table.groupby(["rank", "root"], as_index=False).agg(start_us=("start_us", "min"))
    first = first.sort_values(["rank", "start_us"])
    first["step"] = first.groupby("rank").cumcount()
    table = table.merge(first[["rank", "root", "step"]], on=["rank", "root"])
    origin = table.groupby("step" if one_clock else ["rank", "step"])["start_us"].transform("min")
    table[["start_us", "end_us"]] = table[["start_us", "end_us"]].sub(origin, axis=0)
    time = table["end_us"] - table["start_us"]
    covered = 100 * float(time[table["stage"] != OTHER].sum() / time.sum())
    columns = ["rank", "step", "stage", "communication", "start_us", "end_us"]
    return Steps(table[columns].sort_values(["rank", "step", "start_us"], ignore_index=True), one_clock, covered)


def travels(table: pd.DataFrame) -> Bools:
    """Return which operations carry data between GPUs, by their names: bool [n]."""
    rules = [rule for rule in builtin() if rule.engine in ENGINES]
    full = table["name_full"].fillna(table["name"])

    def one(name: str, whole: str) -> bool:
        return bool(OWN.search(name)) or any(re.search(r.kernel, name) and re.search(r.full, whole) for r in rules)

    return np.array([one(str(a), str(b)) for a, b in zip(table["name"], full, strict=True)], bool)


def stages(found: Steps) -> pd.DataFrame:
    """Return rank, stage, time_us (median over steps of the stage's kernel time) and pct of the rank's step."""
    table = found.table.assign(us=found.table["end_us"] - found.table["start_us"])
    sums = table.groupby(["rank", "step", "stage"], sort=False)["us"].sum().reset_index()
    out = sums.groupby(["rank", "stage"], sort=False)["us"].median().rename("time_us").reset_index()
    return out.assign(pct=100 * out["time_us"] / out.groupby("rank")["time_us"].transform("sum"))


def exposed(found: Steps) -> pd.DataFrame:
    """Return what communication costs each rank, medians over steps.

    Returns:
        rank, step_us (span), compute_us (union of what is no communication), communication_us (union of kernels that
        carry data between GPUs), hidden_us (the part of it in which the rank computes too), exposed_us (the rest),
        exposed_pct (of the step), idle_us (the rest of the span).
    """
    rows = []
    for (rank, step), part in found.table.groupby(["rank", "step"]):
        start, end, travels = (part[c].to_numpy() for c in ("start_us", "end_us", "communication"))
        span = float(end.max() - start.min())
        whole, compute = union_us(start, end), union_us(start[~travels], end[~travels])
        communication = union_us(start[travels], end[travels])
        out = whole - compute
        rows.append((rank, step, span, compute, communication, communication - out, out, span - whole))
    names = ["step_us", "compute_us", "communication_us", "hidden_us", "exposed_us", "idle_us"]
    table = pd.DataFrame(rows, columns=["rank", "step", *names])
    median = table.groupby("rank")[names].median().reset_index()
    return median.assign(exposed_pct=100 * median["exposed_us"] / median["step_us"])


def union_us(start: Any, end: Any) -> float:
    """Return the time that intervals cover together; starts and ends are numpy arrays [n] in microseconds."""
    if not len(start):
        return 0.0
    order = np.argsort(start, kind="stable")
    first, last = start[order], np.maximum.accumulate(end[order])
    before = np.concatenate([first[:1], last[:-1]])
    return float(np.maximum(last - np.maximum(before, first), 0).sum())


def arrivals(found: Steps) -> pd.DataFrame:
    """Return when ranks begin to communicate: who comes last, and how long the others wait for it.

    Returns:
        stage (dispatch, combine), rank, late_us (median over steps of its first communication of the stage after that
        of the first rank) and last_pct (of steps in which it was the last); empty without one clock.
    """
    table = found.table[found.table["communication"] & found.table["stage"].isin(WAYS)]
    if not found.one_clock or table.empty:
        return pd.DataFrame(columns=["stage", "rank", "late_us", "last_pct"])
    begun = table.groupby(["stage", "step", "rank"], as_index=False)["start_us"].min()
    by = begun.groupby(["stage", "step"])["start_us"]
    late, last = begun["start_us"] - by.transform("min"), begun["start_us"] == by.transform("max")
    begun = begun.assign(late_us=late, last=last & (late > 0))
    out = begun.groupby(["stage", "rank"], as_index=False).agg(late_us=("late_us", "median"), last_pct=("last", "mean"))
    out["last_pct"] *= 100
    ordered: pd.DataFrame = out.sort_values(["stage", "rank"], ascending=[False, True], ignore_index=True)
    return ordered


def median_step(found: Steps) -> pd.DataFrame:
    """Return the operations of the step whose span over all ranks is the median one."""
    span = found.table.groupby("step")["end_us"].max() - found.table.groupby("step")["start_us"].min()
    chosen = span.sort_values().index[(len(span) - 1) // 2]
    table: pd.DataFrame = found.table[found.table["step"] == chosen].reset_index(drop=True)
    return table
