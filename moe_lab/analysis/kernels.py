# SPDX-License-Identifier: Apache-2.0
"""Which kernels take the time: by place and launch geometry, or summed by name, role, stage, range, rank and so on."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from moe_lab.analysis import roles
from moe_lab.analysis.breakdown import UNATTRIBUTED
from moe_lab.runs.attribution.columns import codes, strings
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.attribution.tree import Tree, build, paths
from moe_lab.spec.errors import UserError
from moe_lab.spec.inductor import operators
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import stage_of

KEYS = ("path", "name", "grid_blocks", "block_threads")


def top_kernels(launches: Launches, root: str | None = None, limit: int = 20) -> pd.DataFrame:
    """Return the kernels that take most time, one row for each path, name, grid_blocks and block_threads.

    ``root`` is as for ``breakdown``; at most ``limit`` rows, 0 = all.

    Returns:
        Columns path (of the innermost range, from the root down), name, launches, grid_blocks, block_threads,
        registers_per_thread (NA if launches of the row differ), median_us, total_ms, pct_of_root (percent of the
        kernel time of all roots), longest total first.

    Raises:
        UserError: the expression is not valid or matches no range.
    """
    tree = build(launches, root)
    rows = np.flatnonzero(tree.kernel if tree.whole else tree.kernel & (tree.operation_root >= 0))
    path, values = operation_paths(tree, rows)
    table = launches.table.iloc[rows]
    frame = table[["name", "grid_blocks", "block_threads", "registers_per_thread"]].reset_index(drop=True)
    # Grouping millions of rows by the codes of paths spares the texts.
    frame["path"] = pd.Categorical.from_codes(path, pd.Index(values))
    # -1 is a start that the report does not have.
    frame["us"] = np.where(tree.start[rows] < 0, np.nan, (tree.end - tree.start)[rows] / 1e3)
    grouped = frame.groupby(list(KEYS), dropna=False, observed=True, sort=False)
    out = grouped.agg(
        launches=("us", "size"),
        median_us=("us", "median"),
        total_us=("us", "sum"),
        least=("registers_per_thread", "min"),
        registers_per_thread=("registers_per_thread", "max"),
    ).reset_index()
    out["registers_per_thread"] = out["registers_per_thread"].where(out["registers_per_thread"] == out["least"])
    out["total_us"] = out["total_us"].where(out["median_us"].notna())  # a sum of nothing known is 0, not NA
    out["total_ms"] = out["total_us"] / 1e3
    out["pct_of_root"] = 100 * out["total_us"] / out["total_us"].sum()
    out["path"] = out["path"].astype("string")
    out = out.sort_values(["total_us", "path", "name"], ascending=[False, True, True], kind="stable")
    columns = ["path", "name", "launches", *KEYS[2:], "registers_per_thread", "median_us", "total_ms", "pct_of_root"]
    return out[columns].head(limit or len(out)).reset_index(drop=True)


def sums(launches: Launches, by: str | Sequence[str] = "name", root: str | None = None) -> pd.DataFrame:
    """Sum the kernels of a report that have something in common; neither ranges nor start times are needed.

    Args:
        launches: the report.
        by: one or more of ``BY``.
        root: as for ``breakdown``; by default every kernel of the report counts.

    Returns:
        The columns of ``by``, launches, total_ms, pct_of_kernels (percent of the time of all kernels that count), and
        median_us, mean_us, min_us and max_us of a launch; longest total first. A kernel in no stage or range, without
        a role, or whose name lists no operators, has NA there.

    Raises:
        UserError: there is no such column, or the expression is not valid or matches no range.
    """
    keys = [by] if isinstance(by, str) else list(by)
    if not keys or (unknown := [key for key in keys if key not in BY]):
        raise UserError(f"Kernels cannot be summed by '{unknown[0] if keys else ''}'; choose from {', '.join(BY)}.")
    tree = build(launches, root, timed=False)
    counts = (launches.table["kind"] == "kernel").to_numpy(dtype=bool)
    rows = np.flatnonzero(counts if root is None else counts & (tree.operation_root >= 0))
    frame = pd.DataFrame({key: BY[key](launches, tree, rows).reset_index(drop=True) for key in keys})
    duration = launches.table["duration_ns"].iloc[rows].astype("Float64").reset_index(drop=True)
    grouped = frame.assign(us=duration / 1e3).groupby(keys, dropna=False, sort=False)
    out = grouped.agg(
        launches=("us", "size"),
        total_ms=("us", "sum"),
        median_us=("us", "median"),
        mean_us=("us", "mean"),
        min_us=("us", "min"),
        max_us=("us", "max"),
    ).reset_index()
    # A sum of nothing known is 0 in pandas, but not known here.
    out["total_ms"] = (out["total_ms"] / 1e3).where(out["median_us"].notna())
    out.insert(len(keys) + 2, "pct_of_kernels", 100 * out["total_ms"] / (out["total_ms"].sum() or np.nan))
    ordered: pd.DataFrame = out.sort_values(
        ["total_ms", *keys], ascending=[False, *[True] * len(keys)], ignore_index=True
    )
    return ordered


def _column(name: str) -> Callable[[Launches, Tree, Ints], "pd.Series[str]"]:
    return lambda launches, tree, rows: launches.table[name].iloc[rows]


def _range(launches: Launches, tree: Tree, rows: Ints) -> "pd.Series[str]":
    code, values = codes(launches.ranges["path"])
    own = tree.range_id[rows]
    return strings(np.where(own >= 0, code[own], -1) if len(code) else own, [str(v) for v in values])


def operation_paths(tree: Tree, rows: Ints) -> tuple[Ints, list[str]]:
    """Return (code, values): the path of the innermost range of some operations, from their root down."""
    code, values, _, _ = paths(tree, tree.with_parents(tree.range_id[rows]))
    own = tree.range_id[rows]
    found = np.where(own >= 0, code[own], -1) if len(code) else own
    return np.where(found >= 0, found, len(values)), [*values, UNATTRIBUTED]


def stage_column(tree: Tree, rows: Ints) -> "pd.Series[str]":
    """Return the stage of some operations (see ``ranges.stage_of``), NA where they lie in none."""
    stages = tree.stages()
    own = tree.range_id[rows]
    stage = [stage_of(name) or name for name in tree.names]
    return strings(np.where(own >= 0, stages[own], -1) if len(stages) else own, stage)


def _operators(launches: Launches, tree: Tree, rows: Ints) -> "pd.Series[str]":
    """Return what kernels of torch.compile compute, as their names list it; NA for all others."""
    code, names = codes(launches.table["name"].iloc[rows])
    said = [", ".join(operators(str(name))) for name in names]
    known = np.array([*(bool(text) for text in said), False], bool)  # the last stands for -1, no name
    return strings(np.where(known[code], code, -1), said)


BY: dict[str, Callable[[Launches, Tree, Ints], "pd.Series[str]"]] = {
    "name": _column("name"),
    "role": lambda launches, tree, rows: roles.column(launches, tree).iloc[rows],
    "operators": _operators,
    "stage": lambda launches, tree, rows: stage_column(tree, rows),
    "range": _range,
    **{name: _column(name) for name in ("rank", "process", "device", "stream")},
}
