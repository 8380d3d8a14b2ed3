# SPDX-License-Identifier: Apache-2.0
"""Stages of a graph's kernels from another trace, in which the same kernels ran in ranges.

Some tools do not record in which range the kernels of a graph were captured. Two traces then belong together: one of a
step without graphs (or of the phase that captures them), and one of the replays. A kernel in the second gets the stage
that the same kernel between the same neighbours has in the first.
"""

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from moe_lab.analysis.labels import labelled
from moe_lab.runs.attribution.columns import codes, in_lanes
from moe_lab.runs.attribution.keys import Bools, Ints, distinct
from moe_lab.runs.attribution.tree import Tree, build
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import short_name, stage_of

# Offsets of the neighbours that must be the same, tried in this order: many on both sides, then fewer, and for the ends
# of a trace those on one side.
WINDOWS = [range(-4, 5), range(-2, 3), range(-1, 2), range(0, 5), range(-4, 1)]


def with_stages_of(launches: Launches, marked: Launches) -> Launches:
    """Return the launches with a range around every kernel whose stage is known from another report.

    Only kernels that lie in no stage get one. If kernels of the same name between the same neighbours are in different
    stages in the other report, they get none. A sentence in ``meta["warnings"]`` says how many got a stage.

    Args:
        launches: the report of the replays.
        marked: the report in which the same kernels ran in ranges.

    Raises:
        UserError: no kernel of ``marked`` lies in a range.
    """
    tree, other = build(launches), build(marked)
    label, names = _labels(other)
    if not (label >= 0).any():
        raise UserError("The report that is to tell the stages has no kernel in a range; give one of a marked step.")
    stages = tree.stages()
    inside = stages[tree.range_id] >= 0 if len(stages) else np.zeros(len(tree.range_id), bool)
    free = tree.kernel & ~((tree.range_id >= 0) & inside)
    found = np.where(free, _told(launches, tree, marked, other, label), -1)
    duration = tree.end - tree.start
    pct = 100 * int(duration[found >= 0].sum()) / (int(duration[free].sum()) or 1)
    said = (
        f"{int((found >= 0).sum())} of {int(free.sum())} kernels outside of stages ({pct:.2f} % of their time) have "
        "the stage of the same kernel between the same neighbours in the other report."
    )
    told = replace(launches, meta={**launches.meta, "warnings": [*launches.meta.get("warnings", ()), said]})
    return labelled(told, tree, found, names, found >= 0)


def _labels(tree: Tree) -> tuple[Ints, list[str]]:
    """Return (label, names): the stage of every kernel, else its innermost range without numbers; -1 = none."""
    stages = tree.stages()
    shown = [stage_of(name) or re.sub(r"[_.]?\d+$", "", short_name(name)) for name in tree.names]
    own = np.where(stages >= 0, stages, tree.name) if len(stages) else tree.name
    code, names = codes(pd.Series(shown, dtype=object))
    placed = tree.kernel & (tree.range_id >= 0)
    label = np.full(len(placed), -1, np.int64)
    label[placed] = code[own[tree.range_id[placed]]]
    return label, [str(name) for name in names]


def _told(launches: Launches, tree: Tree, marked: Launches, other: Tree, label: Ints) -> Ints:
    """Return the label of every operation of ``launches``, -1 where the other report leaves it open."""
    rows, lane = in_lanes(launches.table, tree.start, np.flatnonzero(tree.kernel))
    theirs, their_lane = in_lanes(marked.table, other.start, np.flatnonzero(other.kernel))
    both = pd.concat([_names(launches).iloc[rows], _names(marked).iloc[theirs]], ignore_index=True)
    token, _ = codes(both)
    lanes = np.concatenate([lane, their_lane + lane.max(initial=-1) + 1])
    known = np.concatenate([np.full(len(rows), -1), label[theirs]])
    found = np.full(len(rows), -1, np.int64)
    for steps in WINDOWS:
        place, whole = _places(token, lanes, steps)
        theirs_told = pd.DataFrame({"place": place, "label": known})[len(rows) :][whole[len(rows) :]]
        # Clear are places at which all kernels of the other report have the same label.
        told = theirs_told.groupby("place")["label"].agg(["min", "max"])
        clear = told.loc[told["min"] == told["max"], "min"]
        here = clear.reindex(place[: len(rows)]).fillna(-1).to_numpy(np.int64)
        found = np.where(found >= 0, found, here)
    result = np.full(len(tree.kernel), -1, np.int64)
    result[rows] = found
    return result


def _names(launches: Launches) -> "pd.Series[str]":
    return launches.table["name_full"].fillna(launches.table["name"]).astype(object)


def _places(token: Ints, lane: Ints, steps: range) -> tuple[Ints, Bools]:
    """Return (place, whole): a number shared by kernels with the same neighbours, and whether all neighbours exist."""
    columns, whole = [], np.ones(len(token), bool)
    for step in steps:
        at = np.arange(len(token)) + step
        there = (at >= 0) & (at < len(token))
        there[there] = lane[at[there]] == lane[there]
        columns.append(np.where(there, token[np.where(there, at, 0)], -1))
        whole &= there
    return distinct(*columns)[1], whole
