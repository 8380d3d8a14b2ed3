# SPDX-License-Identifier: Apache-2.0
"""Which part of a report is analysed: what its program marks by cudaProfilerStart and Stop, without its warm-up."""

from dataclasses import replace

import numpy as np

from moe_lab.runs.attribution.keys import Bools
from moe_lab.runs.attribution.tree import build, times
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import parse_root

WARM_UP = 10  # times the median span of an instance
BUSY = 0.5  # an instance that is busy for more of its span does more work, and is not slow from warming up
ALL = "`--window all` counts them"


def analysed(launches: Launches) -> Launches:
    """Return the operations to analyse; sentences in ``meta["warnings"]`` say what is left out.

    That is what was launched between cudaProfilerStart and Stop, in processes that call them. Of each top-level range,
    leading instances are left out that span more than ``WARM_UP`` times the median and wait most of that time.

    Args:
        launches: the report; its parser states by a boolean column ``in_window`` what lies between the two calls.
    """
    inside = launches.table.get("in_window")
    if inside is not None:
        keep = inside.to_numpy(bool)
        if keep.any():
            count = f"{int((~keep).sum())} of {len(keep)} GPU operations were launched"
            said = f"{count} outside of cudaProfilerStart to Stop and are left out; {ALL}."
        else:
            keep, said = ~keep, "No GPU operation was launched between cudaProfilerStart and Stop: all are counted."
        launches = _only(launches, keep, said)
        launches = replace(launches, table=launches.table.drop(columns="in_window"))
    return _without_warm_up(launches)


def _without_warm_up(launches: Launches) -> Launches:
    if launches.table["start_ns"].isna().all() or not len(launches.ranges):
        return launches
    tree = build(launches)
    inside = times(tree)
    roots = np.flatnonzero((tree.root == np.arange(len(tree.root))) & (inside.operations > 0))
    roots = roots[np.argsort(inside.first[roots], kind="stable")]
    span = inside.last - inside.first
    cold = np.zeros(len(tree.root), bool)
    for name in np.unique(tree.name[roots]):
        own = roots[tree.name[roots] == name]
        slow = (span[own] > WARM_UP * np.median(span[own])) & (inside.busy[own] < BUSY * span[own])
        # An operator of PyTorch is called with many sizes; our own workloads warm up before they open a root.
        if "::" not in tree.names[name] and not parse_root(tree.names[name]):
            cold[own[np.logical_and.accumulate(slow)]] = True  # only those before all others
    if not cold.any():
        return launches
    of = tree.operation_root
    keep = ~((of >= 0) & cold[of])
    said = (
        f"{int(cold.sum())} of {len(roots)} instances of the outermost ranges, each the first of its name, span more "
        f"than {WARM_UP} times the median: {int((~keep).sum())} GPU operations are left out as warm-up; {ALL}."
    )
    return _only(launches, keep, said)


def _only(launches: Launches, keep: Bools, said: str) -> Launches:
    """Return the launches with only some operations; bool [operations]."""
    pairs = launches.memberships[keep[launches.memberships["operation"]]]
    place = np.cumsum(keep) - 1  # row of each kept operation in the new table
    pairs = pairs.assign(operation=place[pairs["operation"]]).reset_index(drop=True)
    meta = launches.meta | {"warnings": [*launches.meta.get("warnings", ()), said]}
    return replace(launches, table=launches.table[keep].reset_index(drop=True), meta=meta, memberships=pairs)
