# SPDX-License-Identifier: Apache-2.0
"""Where the GPU time goes: one row per range path, medians per instance."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis import coverage
from moe_lab.analysis.roles import apply
from moe_lab.runs.attribution.columns import strings
from moe_lab.runs.attribution.keys import Bools, Ints
from moe_lab.runs.attribution.tree import Times, Tree, build, paths, times
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.roles import Rule

UNATTRIBUTED = "(unattributed)"
PER_INSTANCE = ("kernels", "kernel_sum_ms", "busy_ms", "span_ms", "gap_ms")


def breakdown(
    launches: Launches,
    root: str | None = None,
    *,
    spread: bool = False,
    roles: bool | Sequence[Rule] | None = None,
) -> pd.DataFrame:
    """Return the time of every range path below the roots.

    An instance is one occurrence of a range that launched at least one GPU operation; each replay of a CUDA graph is
    one. Times include everything nested inside. ``kernels`` and ``kernel_sum_ms`` count only kernels; the others also
    copies and memsets: busy is the union over streams, span is first start to last end, gap = span - busy.

    The last row, ``(unattributed)``, holds the kernels that lie directly in a root, per root instance, so that it and
    the other rows of depth 1 add up to the root. If there is no root (neither given nor a ``moe_lab|...`` range), the
    whole report is the root: the row then holds the total of the kernels in no range at all, and has no instances.

    A crossing range (one that overlaps another range of its thread without nesting) is a row of its own at depth 0. It
    shares its kernels with the tree, so that the percentages may add up to more than 100.

    Args:
        launches: the report.
        root: regular expression searched in range names; the outermost matches are depth 0. By default the
            ``moe_lab|...`` ranges if there are any, else every top-level range.
        spread: also return the smallest and largest instance: ``kernel_sum_ms_min``, ``kernel_sum_ms_max`` and so on.
        roles: give kernels that lie in no stage a role by name and order (see ``roles.apply``), with the rules of every
            engine (True) or with given rules; by default only if no kernel lies in any range, so that a report without
            ranges has one row per role.

    Returns:
        One row per path in tree order, then ``(unattributed)``. Columns path, name, depth, instances, then medians per
        instance kernels, kernel_sum_ms, busy_ms, span_ms, gap_ms, then pct_of_root (percent of the kernel time of all
        roots) and total_kernel_sum_ms. ``attrs["coverage"]`` is ``coverage.Coverage`` as a dictionary,
        ``attrs["notes"]`` holds sentences on the report and its roles.

    Raises:
        UserError: the expression is not valid or matches no range with GPU operations.
    """
    tree = build(launches, root)
    covered = coverage.of(tree)
    if roles or (roles is None and not (tree.range_id[tree.kernel] >= 0).any()):
        launches = apply(launches, None if isinstance(roles, bool | None) else roles)
        bare, tree = tree, build(launches, root)
        covered = coverage.with_roles(bare, tree)
    inside = times(tree)
    used = inside.operations > 0
    if not tree.whole and not (used & (tree.root >= 0)).any():
        raise UserError(
            f"No GPU operation lies in a range that matches '{root or 'moe_lab|'}'; choose a range around GPU work."
        )
    code, values, depth, name = paths(tree, used)
    rows = np.flatnonzero(code >= 0)
    frame = _instances(inside, rows).assign(code=code[rows])
    grouped = frame.groupby("code", sort=True)
    # The median instance is what a layer takes; shares are of totals, so that rows of one depth add up to the root.
    out = grouped[list(PER_INSTANCE)].median()
    out.insert(0, "instances", grouped.size())
    out["total_kernel_sum_ms"] = grouped["kernel_sum_ms"].sum()
    out["first"] = grouped["first"].min()
    out["path"], out["name"], out["depth"] = values, [tree.names[n] for n in name], depth
    if spread:
        for how in ("min", "max"):
            out = out.join(getattr(grouped[list(PER_INSTANCE[1:])], how)().add_suffix(f"_{how}"))
    out = out.iloc[_tree_order(tree, code, rows, out["first"].to_numpy())]
    rest = _unattributed(tree, spread)
    out = pd.concat([out, rest]) if len(out) else rest
    out = _finish(out, tree, spread)
    out.attrs.update(coverage=asdict(covered), notes=list(launches.meta.get("warnings", ())))
    return out


def selected(table: pd.DataFrame, *, depth: int | None = None, sort: str = "start", top: int = 0) -> pd.DataFrame:
    """Return some rows of a breakdown, each still below the row that it lies in, and ``(unattributed)`` last.

    Args:
        table: the result of ``breakdown``.
        depth: depth of the deepest rows to keep; by default all.
        sort: order of the rows below the same row: ``start`` (of the first operation), ``time`` (most kernel time
            first) or ``name``.
        top: keep only this many rows, those of most kernel time, and the rows that they lie in; 0 = all.
    """
    total, names, depths = table["total_kernel_sum_ms"].fillna(0.0), table["name"].tolist(), table["depth"].tolist()
    last = (table["path"] == UNATTRIBUTED).tolist()
    by = {"start": [0.0] * len(table), "time": (-total).tolist(), "name": names}[sort]
    # Sorted by these lists, a row comes right after the one that it lies in, and (unattributed) last.
    place: list[list[tuple[Any, ...]]] = []  # for each row: the sort keys of all rows that it lies in, then its own
    above: list[list[int]] = []
    inside: list[int] = []
    for row, level in enumerate(depths):
        inside[level:] = [row]
        above.append(inside.copy())
        place.append([(last[at], by[at], at) for at in (inside[-1:] if last[row] else inside)])
    near = total[[not end and (depth is None or level <= depth) for end, level in zip(last, depths, strict=True)]]
    kept = {at for row in near.nlargest(top or len(near), keep="first").index for at in above[row]}
    kept |= {row for row, end in enumerate(last) if end and (depth is None or depths[row] <= depth)}
    out = table.iloc[sorted(kept, key=lambda row: place[row])].reset_index(drop=True)
    out.attrs = table.attrs
    return out


def instances(launches: Launches) -> pd.DataFrame:
    """Return one row per instance of every range in the roots that launched GPU operations.

    On reports without CUDA graphs, operations, start and end equal NVIDIA's projection (``nvtx_gpu_proj_trace``).

    Args:
        launches: the report.

    Returns:
        Columns range_id, path, depth, operations, kernels, kernel_sum_ms, busy_ms, span_ms, gap_ms, and the projected
        start_ns and end_ns, in order of start.
    """
    tree = build(launches)
    inside = times(tree)
    code, values, depth, _ = paths(tree, inside.operations > 0)
    rows = np.flatnonzero(code >= 0)
    rows = rows[np.lexsort((tree.depth[rows], inside.first[rows]))]
    frame = _instances(inside, rows).drop(columns="first")
    frame.insert(0, "range_id", rows)
    frame.insert(1, "path", strings(code[rows], values))
    frame.insert(2, "depth", depth[code[rows]])
    frame.insert(3, "operations", inside.operations[rows])
    return frame.assign(start_ns=inside.first[rows], end_ns=inside.last[rows])


def _instances(inside: Times, rows: Ints) -> pd.DataFrame:
    """Return kernels and times of some range instances; times in ms, ``first`` in ns."""
    span = inside.last[rows] - inside.first[rows]
    busy = inside.busy[rows]
    return pd.DataFrame(
        {
            "kernels": inside.kernels[rows],
            "kernel_sum_ms": inside.kernel_sum[rows] / 1e6,
            "busy_ms": busy / 1e6,
            "span_ms": span / 1e6,
            "gap_ms": (span - busy) / 1e6,
            "first": inside.first[rows],
        }
    )


def _unattributed(tree: Tree, spread: bool) -> pd.DataFrame:
    """Return the last row: the kernels directly in a root, or, without roots, in no range."""
    if tree.whole:  # an invented range around all that lies in none, so that `times` can be used
        zero, none = np.zeros(1, np.int64), np.zeros(0, np.int64)
        one = replace(
            tree,
            parent=zero - 1,
            depth=zero,
            range_id=np.where(tree.range_id < 0, 0, -1),
            pair_operation=none,
            pair_range=none,
        )
        frame = _instances(times(one), zero)
    else:
        roots = np.flatnonzero((tree.root == np.arange(len(tree.root))) & (times(tree).operations > 0))
        direct: Bools = tree.operation_root == tree.range_id  # the innermost range is the root
        frame = _instances(times(tree, direct), roots)
    row: dict[str, Any] = {"path": UNATTRIBUTED, "name": UNATTRIBUTED, "depth": 0 if tree.whole else 1}
    row["instances"] = pd.NA if tree.whole else len(frame)
    row.update({c: frame[c].median() for c in PER_INSTANCE})
    row["total_kernel_sum_ms"] = frame["kernel_sum_ms"].sum()
    for how in ("min", "max") if spread else ():
        row.update({f"{c}_{how}": getattr(frame[c], how)() for c in PER_INSTANCE[1:]})
    return pd.DataFrame([row])


def _tree_order(tree: Tree, code: Ints, rows: Ints, first: Ints) -> list[int]:
    """Return the path codes, parents first and siblings by the time of their first operation."""
    parent = np.full(len(first), -1, np.int64)
    inner = rows[tree.root[rows] != rows]
    parent[code[inner]] = code[tree.parent[inner]]
    children: dict[int, list[int]] = {}
    for own in np.argsort(first, kind="stable")[::-1].tolist():  # the last first, as a stack reverses them
        children.setdefault(int(parent[own]), []).append(own)
    order, stack = [], children.get(-1, [])
    while stack:
        own = stack.pop()
        order.append(own)
        stack.extend(children.get(own, ()))
    return order


def _finish(out: pd.DataFrame, tree: Tree, spread: bool) -> pd.DataFrame:
    """Return the columns in order, with percentages added."""
    counted = tree.kernel if tree.whole else tree.kernel & (tree.operation_root >= 0)
    total = float((tree.end - tree.start)[counted].sum()) / 1e6
    out = out.assign(pct_of_root=100 * out["total_kernel_sum_ms"] / (total or np.nan))
    out["instances"] = out["instances"].astype("Int64")
    extra = [f"{c}_{how}" for c in PER_INSTANCE[1:] for how in ("min", "max")] if spread else []
    columns = ["path", "name", "depth", "instances", *PER_INSTANCE, "pct_of_root", "total_kernel_sum_ms", *extra]
    return out[columns].reset_index(drop=True)
