# SPDX-License-Identifier: Apache-2.0
"""Which part of a report its small copy keeps; the same for every format."""

from dataclasses import dataclass

import numpy as np

from moe_lab.runs.attribution.assemble import KINDS
from moe_lab.runs.attribution.columns import array
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.attribution.tree import build, times
from moe_lab.spec.launches import Launches

# What every plugin's ``slim(source, target, keep)`` returns: sentences on what was left out, and the names of machines
# in the report. ``target`` is a file or folder that does not exist yet; ``keep`` None = keep everything.
Slimmed = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Keep:
    """Part of a report: rows of each kind of operation, counted per kind from 0, and the ``report_row`` of ranges."""

    operations: dict[str, Ints]
    ranges: Ints


def first_instances(launches: Launches, root: str | None, count: int) -> Keep:
    """Return what belongs to the first ``count`` instances of each root name: operations and the ranges around them.

    Args:
        launches: the report.
        root: regular expression searched in range names; by default the ``moe_lab|...`` or all top-level ranges.
        count: instances of each distinct name, in order of time.
    """
    tree = build(launches, root)
    inside = times(tree)
    roots = np.flatnonzero((tree.root == np.arange(len(tree.root))) & (inside.operations > 0))
    roots = roots[np.argsort(inside.first[roots], kind="stable")]
    taken: dict[int, list[int]] = {}
    for row in roots.tolist():
        taken.setdefault(int(tree.name[row]), []).append(row)
    chosen = np.array([row for rows in taken.values() for row in rows[:count]], np.int64)
    kept = np.isin(tree.operation_root, chosen)
    kept[tree.pair_operation[np.isin(tree.pair_range, chosen)]] = True
    kinds = launches.table["kind"].to_numpy()
    operations = {kind: np.flatnonzero(kept[kinds == kind]) for kind in KINDS}
    # A replayed kernel also needs the ranges of its capture, which lie outside the instance.
    columns = ("launch_range_id", "capture_range_id")
    starts = np.concatenate([array(launches.table[c])[kept] for c in columns] + [chosen])
    starts = np.concatenate([starts, tree.pair_range[kept[tree.pair_operation]]])
    rowids = array(launches.ranges["report_row"])[tree.with_parents(starts)]
    return Keep(operations, rowids[rowids >= 0])
