# SPDX-License-Identifier: Apache-2.0
"""What can be said of any report, whatever is in it: how busy its GPUs were, its gaps, and its operations in time."""

from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis import roles
from moe_lab.analysis.ranks import travels, union_us
from moe_lab.runs.attribution.tree import build
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

SIZES = {"under 2 us": 2.0, "2 to 10 us": 10.0, "10 to 100 us": 100.0, "over 100 us": np.inf}
OTHER = "other"  # operations without a role


def operations(launches: Launches) -> pd.DataFrame:
    """Return every GPU operation of a report in order of start.

    Returns:
        Columns kind, name, role (``OTHER`` = none), device (a number, or a text with the rank where several ranks have
        a GPU of that number), stream, start_us (since the first one, on that device where ranks have clocks of their
        own), duration_us, graph (launched by a graph), communication (it carries data between GPUs), correlation (one
        per launch), path (of its range, NA = none), grid_blocks, block_threads, registers_per_thread.

    Raises:
        UserError: the report has no start times.
    """
    tree = build(launches)  # raises where there are no times
    table = launches.table
    if table.empty:
        raise UserError("The report holds no GPU operation; trace a command that runs on a GPU.")
    start = table["start_ns"].astype("Int64")
    device = _devices(table)
    origin = start.min() if launches.meta.get("one_clock", True) else start.groupby(device).transform("min")
    role = roles.column(launches, tree).astype("string").fillna(OTHER)
    frame = pd.DataFrame(
        {
            "kind": table["kind"],
            "name": table["name"],
            "role": role.where(table["kind"] == "kernel", "copy"),
            "device": device,
            "stream": table["stream"],
            "start_us": ((start - origin) / 1e3).astype(float),
            "duration_us": (table["duration_ns"] / 1e3).astype(float),
            "graph": tree.graph,
            "communication": travels(table),
            "correlation": table["correlation"],
            "path": table["range_id"].map(launches.ranges["path"]).astype("string"),
            **{c: table[c] for c in ("grid_blocks", "block_threads", "registers_per_thread")},
        }
    )
    return frame.sort_values("start_us", kind="stable", ignore_index=True)


def _devices(table: pd.DataFrame) -> "pd.Series[Any]":
    """Return the GPU of each operation; traces of a rank each may number theirs alike."""
    device, rank = table["device"], table["rank"]
    if rank.groupby(device).nunique().max() < 2:
        return device
    return device.astype("string").str.cat(" of rank " + rank.astype("string"), na_rep="")


def devices(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per GPU, ``found`` being as from ``operations``.

    Returns:
        device, kernels, kernel_sum_ms, busy_ms, span_ms, gap_ms, busy_pct (of the span), graph_pct (of the kernels, by
        graphs), communication_ms (in which data travel between GPUs), exposed_ms (the part of it in which the GPU does
        nothing else), exposed_pct (of the span).
    """
    rows = []
    for device, own in found.groupby("device", dropna=False):
        kernels = own[own["kind"] == "kernel"]
        span = float((own["start_us"] + own["duration_us"]).max() - own["start_us"].min())
        gap = float(_gaps(own)["gap_us"].sum())
        row: dict[str, Any] = {"device": device, "kernels": len(kernels)}
        row["kernel_sum_ms"] = kernels["duration_us"].sum() / 1e3
        row |= {"busy_ms": (span - gap) / 1e3, "span_ms": span / 1e3, "gap_ms": gap / 1e3}
        row["busy_pct"] = 100 * (span - gap) / span if span else np.nan
        row["graph_pct"] = 100 * kernels["graph"].mean() if len(kernels) else np.nan
        rows.append(row | _communication(own, span))
    return pd.DataFrame(rows)


def _communication(own: pd.DataFrame, span_us: float) -> dict[str, float]:
    start, travel = own["start_us"].to_numpy(), own["communication"].to_numpy()
    end = start + own["duration_us"].to_numpy()
    exposed = union_us(start, end) - union_us(start[~travel], end[~travel])
    row = {"communication_ms": union_us(start[travel], end[travel]) / 1e3, "exposed_ms": exposed / 1e3}
    return row | {"exposed_pct": 100 * exposed / span_us if span_us else np.nan}


def arrivals(found: pd.DataFrame, one_clock: bool = True) -> pd.DataFrame:
    """Return which GPU comes last to the kernels that carry data between GPUs, ``found`` being as from ``operations``.

    The n-th kernel of a name on one GPU is set beside the n-th on the others, where all ran it equally often.

    Returns:
        name, device, times, late_us (median start after that of the first GPU), last_pct (of times in which it was the
        last); empty for one GPU, or without one clock.
    """
    table = found.loc[found["communication"], ["name", "device", "start_us"]]
    counts = table.groupby(["name", "device"]).size().unstack()
    equal = counts.index[counts.nunique(axis=1).eq(1) & counts.notna().all(axis=1)]
    if not one_clock or counts.shape[1] < 2 or equal.empty:
        return pd.DataFrame(columns=["name", "device", "times", "late_us", "last_pct"])
    table = table[table["name"].isin(equal)]
    table = table.assign(time=table.groupby(["name", "device"]).cumcount())
    by = table.groupby(["name", "time"])["start_us"]
    late = table["start_us"] - by.transform("min")
    table = table.assign(late_us=late, last=(table["start_us"] == by.transform("max")) & (late > 0))
    each = table.groupby(["name", "device"], as_index=False)
    out = each.agg(times=("time", "size"), late_us=("late_us", "median"), last_pct=("last", "mean"))
    return out.assign(last_pct=100 * out["last_pct"])


def gaps(found: pd.DataFrame) -> pd.DataFrame:
    """Return the times in which a GPU runs nothing, longest first: device, gap_us, start_us, before, after, in_graph.

    ``before`` and ``after`` name the operations around it; ``in_graph`` says that one
    launch of a graph launched both.
    """
    parts = [_gaps(own).assign(device=device) for device, own in found.groupby("device", dropna=False)]
    every = pd.concat(parts, ignore_index=True)
    columns = ["device", "gap_us", "start_us", "before", "after", "in_graph"]
    return every[columns].sort_values("gap_us", ascending=False, kind="stable", ignore_index=True)


def gap_sizes(found: pd.DataFrame) -> pd.DataFrame:
    """Return how many gaps are of which size: size, in_graph, gaps, total_ms; ``found`` is as from ``gaps``."""
    size = pd.cut(found["gap_us"], [0.0, *SIZES.values()], labels=list(SIZES), right=False)
    grouped = found.assign(size=size).groupby(["size", "in_graph"], observed=True)["gap_us"]
    out = grouped.agg(gaps="size", total_ms="sum").reset_index()
    return out.assign(size=out["size"].astype("string"), total_ms=out["total_ms"] / 1e3)


def waits(found: pd.DataFrame) -> pd.DataFrame:
    """Return before which operations a GPU waited, longest total first: after (their name), gaps, total_ms.

    ``found`` is as from ``gaps``; gaps within a launch of a graph, in which no CPU is waited for, do not count.
    """
    between = found[~found["in_graph"].astype(bool)]
    out = between.groupby("after", sort=False)["gap_us"].agg(gaps="size", total_ms="sum").reset_index()
    out["total_ms"] /= 1e3
    return out.sort_values("total_ms", ascending=False, kind="stable", ignore_index=True)


def _gaps(own: pd.DataFrame) -> pd.DataFrame:
    """Return the gaps between the operations of one GPU, which are in order of start."""
    end = (own["start_us"] + own["duration_us"]).to_numpy()
    start, name, graph = (own[c].to_numpy() for c in ("start_us", "name", "graph"))
    launch = own["correlation"].fillna(-1).to_numpy(np.int64)
    reach = np.maximum.accumulate(end)
    # The operation that ends last before each one: where the running maximum was reached.
    last = np.maximum.accumulate(np.where(end >= reach, np.arange(len(end)), 0))[:-1]
    gap = start[1:] - reach[:-1]
    rows = np.flatnonzero(gap > 0)
    return pd.DataFrame(
        {
            "gap_us": gap[rows],
            "start_us": reach[:-1][rows],
            "before": name[last[rows]],
            "after": name[rows + 1],
            "in_graph": graph[last[rows]] & graph[rows + 1] & (launch[last[rows]] == launch[rows + 1]),
        }
    )
