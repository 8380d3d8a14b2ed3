# SPDX-License-Identifier: Apache-2.0
"""The ranges of a report as arrays: which are roots, what lies below them, and how long every instance takes."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moe_lab.runs.attribution import columns
from moe_lab.runs.attribution.columns import array, codes
from moe_lab.runs.attribution.keys import Bools, Ints
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import LIBRARIES, is_library, parse_root, stage_of


@dataclass(frozen=True)
class Tree:
    """Ranges [n] and operations [m] of a report.

    Attributes:
        parent: int64 [n], -1 at the top.
        depth: int64 [n].
        name: int64 [n], index into ``names``.
        names: the distinct range names.
        root: int64 [n], the outermost chosen range that a range lies in (a root lies in itself), -1 outside of all.
        whole: True if no root was chosen: every top-level range is one, except those of libraries, and the report as a
            whole is 100 %.
        range_id: int64 [m], innermost range of each operation, -1 = none.
        start: int64 [m], ns.
        end: int64 [m], ns.
        kernel: bool [m], whether the operation is a kernel (not a copy).
        graph: bool [m], whether a CUDA or HIP graph launched the operation.
        captured: bool [m], whether the range in which its graph node was captured is known.
        pair_operation: int64 [k], operations inside crossing ranges (see ``Launches.memberships``).
        pair_range: int64 [k], the crossing range of each ``pair_operation``.
    """

    parent: Ints
    depth: Ints
    name: Ints
    names: list[str]
    root: Ints
    whole: bool
    range_id: Ints
    start: Ints
    end: Ints
    kernel: Bools
    graph: Bools
    captured: Bools
    pair_operation: Ints
    pair_range: Ints

    @property
    def operation_root(self) -> Ints:
        """Root of each operation, -1 = none: int64 [m]. Crossing ranges do not count: they share their operations."""
        return np.where(self.range_id >= 0, self.root[self.range_id], -1) if len(self.root) else self.range_id

    def inherit(self, own: Bools) -> Ints:
        """Return, for every range, the innermost range at or above it for which ``own`` holds, else -1: int64 [n]."""
        found = np.where(own, np.arange(len(own)), -1)  # from the top down, so that parents are done first
        for rows in self.levels()[1:]:
            above = found[self.parent[rows]]
            found[rows] = np.where(own[rows], rows, above)
        return found

    def with_parents(self, ranges: Ints) -> Bools:
        """Return which ranges are among the given ones (negative = none) or around them: bool [n]."""
        found = np.zeros(len(self.parent), bool)
        found[ranges[ranges >= 0]] = True
        for rows in reversed(self.levels()[1:]):  # from the bottom up, so that a mark reaches the top in one pass
            found[self.parent[rows[found[rows]]]] = True
        return found

    def levels(self) -> list[Ints]:
        """Return the ranges of each depth, from the top."""
        by_depth = np.argsort(self.depth, kind="stable")
        return np.split(by_depth, np.cumsum(np.bincount(self.depth))[:-1]) if len(self.depth) else []

    def stages(self) -> Ints:
        """Return, for every range, the stage that it lies in (an index into ``names``), -1 = none: int64 [n]."""
        staged = np.array([stage_of(n) is not None for n in self.names], bool)
        found = self.inherit(staged[self.name] if len(self.name) else np.zeros(0, bool))
        return np.where(found >= 0, self.name[found], -1) if len(found) else found


def build(launches: Launches, root: str | None = None, *, timed: bool = True) -> Tree:
    """Return the tree of a report.

    Args:
        launches: the report.
        root: regular expression searched in range names; the outermost matches are the roots. By default the
            ``moe_lab|...`` ranges if there are any, else all top-level ranges but those of libraries.
        timed: whether starts and ends of operations are needed.

    Raises:
        UserError: the expression is not valid or matches no range, or the report lacks the times that are needed.
    """
    ranges, table = launches.ranges, launches.table
    if timed and len(table) and table["start_ns"].isna().all():
        raise UserError(
            "This report holds counters of kernels that ran one by one, without start times; see its counters with "
            "`moe-lab counters`, or trace the command (`moe-lab capture nsys`) for a breakdown."
        )
    name, values = codes(ranges["name"])
    names = [str(v) for v in values]
    parent, depth = array(ranges["parent_id"]), array(ranges["depth"])
    chosen = _chosen(names, root)
    pairs = launches.memberships
    launched = table["attribution"].isin(["graph_launch", "graph_node"]).to_numpy(dtype=bool)
    tree = Tree(
        parent,
        depth,
        name,
        names,
        np.zeros(len(name), np.int64),
        chosen is None,
        array(table["range_id"]).copy(),
        array(table["start_ns"]),
        array(table["end_ns"]),
        np.asarray((table["kind"] == "kernel").to_numpy(dtype=bool)),
        np.asarray(launched | (array(table["graph_node"]) >= 0), bool),
        np.asarray(array(table["capture_range_id"]) >= 0, bool),
        pairs["operation"].to_numpy(np.int64),
        pairs["range_id"].to_numpy(np.int64),
    )
    # Filled in last, as finding the roots needs the levels of the tree.
    tree.root[:] = _outermost(tree, ~_of_libraries(ranges, name, names) if chosen is None else chosen[name])
    if chosen is None:  # operations that lie only in ranges of libraries count as in no range
        tree.range_id[tree.operation_root < 0] = -1
    return tree


def _of_libraries(ranges: pd.DataFrame, name: Ints, names: list[str]) -> Bools:
    """Return which ranges were opened by libraries: bool [n]."""
    by_name = np.array([is_library(n) for n in names], bool)
    by_domain = ranges["domain"].isin(LIBRARIES).to_numpy(dtype=bool)
    return np.asarray(by_name[name] | by_domain if len(name) else by_domain)


def _chosen(names: list[str], root: str | None) -> Bools | None:
    """Return which names are those of roots: bool [names]; None = every top-level range is a root."""
    if root is None:
        ours = np.array([parse_root(n) is not None for n in names], bool)
        return ours if ours.any() else None
    try:
        hit = np.array([re.search(root, n) is not None for n in names], bool)
    except re.error as error:
        raise UserError(
            f"'{root}' is not a valid regular expression ({error}); give one that matches range names."
        ) from None
    if not hit.any():
        some = ", ".join(repr(n) for n in names[:5]) or "none at all"
        raise UserError(f"No range name matches '{root}'; the report has {len(names)} range names, among them: {some}.")
    return hit


def _outermost(tree: Tree, hit: Bools) -> Ints:
    root = np.full(len(hit), -1, np.int64)
    for level, rows in enumerate(tree.levels()):
        above = root[tree.parent[rows]] if level else np.full(len(rows), -1, np.int64)
        root[rows] = np.where(above >= 0, above, np.where(hit[rows], rows, -1))
    return root


@dataclass(frozen=True)
class Times:
    """What every range contains, nested ranges included: int64 [n] each, times in ns; 0 where ``operations`` is 0."""

    operations: Ints
    kernels: Ints
    kernel_sum: Ints
    busy: Ints
    first: Ints
    last: Ints


def times(tree: Tree, only: Bools | None = None) -> Times:
    """Return the times of every range instance; ``only``: bool [m], which operations count, by default all."""
    result = Times(*(np.zeros(len(tree.parent), np.int64) for _ in range(6)))
    use = tree.range_id >= 0 if only is None else only & (tree.range_id >= 0)
    ops = np.flatnonzero(use)
    ops = ops[np.argsort(tree.start[ops], kind="stable")]
    # From the deepest level up: after each level its operations pass to the parent ranges, so that every range counts
    # what lies in it at any depth. Within a range they stay sorted by start, as the union of times needs.
    at = tree.range_id[ops].copy()
    for level in range(int(tree.depth.max(initial=-1)), -1, -1):
        here = np.flatnonzero(tree.depth[at] == level)
        rows, owner = ops[here], at[here]
        _add(result, owner, tree.start[rows], tree.end[rows], tree.kernel[rows])
        if level:
            at[here] = tree.parent[owner]
    if len(tree.pair_operation):  # crossing ranges are outside the trees
        keep = slice(None) if only is None else only[tree.pair_operation]
        rows, owner = tree.pair_operation[keep], tree.pair_range[keep]
        order = np.argsort(tree.start[rows], kind="stable")
        rows, owner = rows[order], owner[order]
        _add(result, owner, tree.start[rows], tree.end[rows], tree.kernel[rows])
    return result


def _add(result: Times, owner: Ints, start: Ints, end: Ints, kernel: Bools) -> None:
    """Set the times of ranges; ``owner`` is the range of each operation, operations are sorted by start."""
    if not len(owner):
        return
    order = np.argsort(owner, kind="stable")
    owner, start, end, kernel = owner[order], start[order], end[order], kernel[order]
    new = np.ones(len(owner), bool)
    new[1:] = owner[1:] != owner[:-1]
    bounds = np.flatnonzero(new)  # reduceat sums from one bound to the next: one range each
    rows = owner[bounds]
    result.operations[rows] = np.diff(bounds, append=len(owner))
    result.kernels[rows] = np.add.reduceat(kernel.astype(np.int64), bounds)
    result.kernel_sum[rows] = np.add.reduceat(np.where(kernel, end - start, 0), bounds)
    result.first[rows] = start[bounds]
    result.last[rows] = np.maximum.reduceat(end, bounds)
    result.busy[rows] = np.add.reduceat(_uncovered(np.cumsum(new) - 1, start, end, new), bounds)


def _uncovered(group: Ints, start: Ints, end: Ints, new: Bools) -> Ints:
    """Return the part of each interval that no earlier one of its group covers; sorted by group, then start."""
    # `reach` is the running maximum of the ends. It must not run from one group into the next, so the times of each
    # group are lifted above those of all groups before it, and lowered again afterwards.
    low = int(end.min())
    size = int(end.max()) - low + 1
    if size * (int(group[-1]) + 1) < 2**62:
        reach = np.maximum.accumulate(group * size + (end - low)) - group * size + low
    else:  # lifted times would overflow 64 bits: use their ranks instead
        values, rank = np.unique(end, return_inverse=True)
        reach = values[np.maximum.accumulate(group * len(values) + rank.ravel()) - group * len(values)]
    before = np.empty_like(reach)
    before[1:] = reach[:-1]
    before[new] = start[new]  # nothing comes before the first of a group
    uncovered: Ints = np.maximum(end - np.maximum(before, start), 0)
    return uncovered


def paths(tree: Tree, used: Bools) -> tuple[Ints, list[str], Ints, Ints]:
    """Return the paths from the roots down as (code [n], values, depth of each value, name code of each value).

    Ranges that are not ``used`` or lie in no root have code -1. The parents of used ranges must be used, too.
    """
    below = tree.depth - tree.depth[tree.root] if len(tree.root) else tree.depth
    level = np.where(used & (tree.root >= 0), below, -1)
    code, values, first = columns.paths(tree.parent, level, tree.name, tree.names)
    return code, values, level[first], tree.name[first]
