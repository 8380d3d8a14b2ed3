"""Which kernels take the time, and with which launch geometry."""

import numpy as np
import pandas as pd

from moe_lab.analysis.breakdown import UNATTRIBUTED
from moe_lab.runs.attribution.columns import strings
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.attribution.tree import Tree, build, paths
from moe_lab.spec.launches import Launches

KEYS = ("path", "name", "grid_blocks", "block_threads")


def top_kernels(launches: Launches, root: str | None = None, limit: int = 20) -> pd.DataFrame:
    """Return the kernels that take most time, one row for each path, name, grid_blocks and block_threads.

    ``root`` is as for ``breakdown``; at most ``limit`` rows, 0 = all.

    Returns:
        Columns path (of the innermost range, from the root down), name, launches, grid_blocks, block_threads,
        registers_per_thread (NA where launches of the row differ), median_us, total_ms, pct_of_root (percent of the
        kernel time of all roots), longest total first.

    Raises:
        UserError: the expression is not valid or matches no range.
    """
    tree = build(launches, root)
    rows = np.flatnonzero(tree.kernel if tree.whole else tree.kernel & (tree.operation_root >= 0))
    path, values = operation_paths(tree, rows)
    table = launches.table.iloc[rows]
    frame = table[["name", "grid_blocks", "block_threads", "registers_per_thread"]].reset_index(drop=True)
    frame["path"] = pd.Categorical.from_codes(path, pd.Index(values))
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
    out["total_us"] = out["total_us"].where(out["median_us"].notna())
    out["total_ms"] = out["total_us"] / 1e3
    out["pct_of_root"] = 100 * out["total_us"] / out["total_us"].sum()
    out["path"] = out["path"].astype("string")
    out = out.sort_values(["total_us", "path", "name"], ascending=[False, True, True], kind="stable")
    columns = ["path", "name", "launches", *KEYS[2:], "registers_per_thread", "median_us", "total_ms", "pct_of_root"]
    return out[columns].head(limit or len(out)).reset_index(drop=True)


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
    return strings(np.where(own >= 0, stages[own], -1) if len(stages) else own, tree.names)
