# SPDX-License-Identifier: Apache-2.0
"""Ranges that the analysis itself adds around kernels; they are ``synthetic``."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from moe_lab.runs.attribution.columns import array, integers, strings
from moe_lab.runs.attribution.keys import Bools, Ints, distinct
from moe_lab.runs.attribution.tree import Tree
from moe_lab.spec.launches import RANGE_COLUMNS, Launches, tidy


def labelled(launches: Launches, tree: Tree, label: Ints, names: Sequence[str], which: Bools) -> Launches:
    """Return the launches with ranges, named by a label, around some operations, one per label and range or process.

    Args:
        launches: the report.
        tree: its tree.
        label: int64 [m], an index into ``names`` for every operation.
        names: names of the new ranges.
        which: bool [m], the operations that get a range.
    """
    rows = np.flatnonzero(which)
    if not len(rows):
        return launches
    own, process = tree.range_id[rows], array(launches.table["process"])[rows]
    # Operations of one range share a new one below it; those in no range share one per process.
    first, made = distinct(own, np.where(own < 0, process, -1), label[rows])
    range_id = tree.range_id.copy()
    range_id[rows] = len(launches.ranges) + made
    ranges = _with(launches.ranges, own[first], process[first], strings(label[rows[first]], names))
    return replace(launches, table=launches.table.assign(range_id=integers(range_id)), ranges=ranges)


def _with(ranges: pd.DataFrame, parent: Ints, process: Ints, name: "pd.Series[str]") -> pd.DataFrame:
    """Return the ranges with new ones added below ``parent``, or at the top where that is negative."""
    above = ranges.reindex(np.where(parent >= 0, parent, -1)).reset_index(drop=True)
    made = {
        "name": name,
        "path": (above["path"] + "/" + name).fillna(name),
        "parent_id": integers(parent),
        "depth": integers(array(above["depth"]) + 1),
        "domain": above["domain"],
        "process": integers(process),
        "synthetic": pd.array(np.ones(len(parent), bool), dtype="boolean"),
        "crossing": pd.array(np.zeros(len(parent), bool), dtype="boolean"),
    }
    added = tidy(pd.DataFrame(made), RANGE_COLUMNS)
    for column in ranges.columns.difference(added.columns):
        added[column] = pd.Series(pd.NA, index=added.index, dtype=ranges[column].dtype)
    return pd.concat([ranges, added[ranges.columns]], ignore_index=True)
