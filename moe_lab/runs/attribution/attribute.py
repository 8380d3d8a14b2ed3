# SPDX-License-Identifier: Apache-2.0
"""Which range a GPU operation belongs to; the same rule for every profiler.

An operation belongs to a range if the API call that launched it lies inside the range on the same thread
(``range.start <= call.start and range.end >= call.end``): the definition of Nsight Systems' own projection reports.
Arrays go in and arrays come out; ids are row numbers and -1 means none. Every step is a sort or a sweep: none is
quadratic and none loops over operations in Python. Times are integer nanoseconds; thread and process ids are 64-bit.
"""

from dataclasses import dataclass

import numpy as np

from moe_lab.runs.attribution.keys import Bools, Ints, groups, runs, shared


@dataclass(frozen=True)
class Forest:
    """Range instances as trees, one set of trees per thread.

    Rows are sorted by thread, then by start, the longest first, so that parents come before their children.

    Attributes:
        thread: int64 [n], any thread id.
        start: int64 [n], ns.
        end: int64 [n], ns, inclusive.
        parent: int64 [n], row of the innermost range around it, -1 at the top.
        depth: int64 [n], 0 at the top.
        crossing: bool [n], the range overlaps another one of its thread without nesting: it stays outside the trees
            (parent -1, depth 0) and its operations are found by ``crossing_pairs``.
    """

    thread: Ints
    start: Ints
    end: Ints
    parent: Ints
    depth: Ints
    crossing: Bools


def order(thread: Ints, start: Ints, end: Ints) -> Ints:
    """Return the permutation that ``nest`` needs: by thread, start, then longest first; ties keep their order."""
    return np.lexsort((-end, start, thread)).astype(np.int64)


def nest(thread: Ints, start: Ints, end: Ints, free: Bools) -> Forest:
    """Nest ranges by containment.

    Args:
        thread: int64 [n]; this and all other arrays are sorted as by ``order``.
        start: int64 [n], ns.
        end: int64 [n], ns, ``end >= start``.
        free: bool [n], whether it is a start/end range: where the ranges of a thread cross, these leave the trees
            before push/pop ranges do.
    """
    parent = np.full(len(start), -1, np.int64)
    depth = np.zeros(len(start), np.int64)
    crossing = np.zeros(len(start), bool)
    # Half-open intervals, so that ranges that only touch are siblings; doubled times leave room to make none empty.
    opens, closes = 2 * start, 2 * end + (start == end)
    for rows in groups(thread):
        kept = rows
        nested = _nest_thread(opens[kept], closes[kept])
        if nested is None:  # some ranges cross: they leave the tree, and `crossing_pairs` finds their operations
            crossing[rows] = _untangle(opens[rows], closes[rows], free[rows])
            kept = rows[~crossing[rows]]
            nested = _nest_thread(opens[kept], closes[kept])
            assert nested is not None
        inside = nested[0] >= 0
        parent[kept[inside]] = kept[nested[0][inside]]
        depth[kept] = nested[1]
    return Forest(thread, start, end, parent, depth, crossing)


def _nest_thread(opens: Ints, closes: Ints) -> tuple[Ints, Ints] | None:
    """Return (parent, depth) of sorted half-open intervals, or None if any two cross.

    The depth of an interval is the number of earlier ones that are still open when it opens; its parent is the last
    earlier one that is one level up. The comparison at the end always finds the first interval that crosses another
    one, because up to that interval both statements hold.
    """
    # Opened so far minus closed so far: the number of intervals that are open when this one opens.
    depth = np.arange(len(opens)) - np.searchsorted(np.sort(closes), opens, side="right")
    parent = np.full(len(opens), -1, np.int64)
    by_depth = np.argsort(depth, kind="stable")
    bounds = np.cumsum(np.bincount(depth)) if len(depth) else np.zeros(1, np.int64)
    for level in range(1, len(bounds)):
        above = by_depth[bounds[level - 2] if level > 1 else 0 : bounds[level - 1]]
        here = by_depth[bounds[level - 1] : bounds[level]]
        # Row numbers are in order of start, so the last smaller row of the level above is the one that opened last.
        at = np.searchsorted(above, here) - 1
        if len(at) and at[0] < 0:  # something is open, but nothing one level up: the open one crosses
            return None
        parent[here] = above[at]
    inside = parent >= 0
    if (closes[parent[inside]] < closes[inside]).any():
        return None
    return parent, depth


def _untangle(opens: Ints, closes: Ints, free: Bools) -> Bools:
    """Return which intervals to take out so that the rest nest; free ones are taken out first, then later ones.

    A plain loop: it runs only on threads whose ranges cross, which push/pop ranges of one domain never do.
    """
    out = np.zeros(len(opens), bool)
    stack: list[tuple[int, int]] = []
    for row, (start, end, movable) in enumerate(zip(opens.tolist(), closes.tolist(), free.tolist(), strict=True)):
        while stack and stack[-1][0] <= start:
            stack.pop()
        # A push/pop range that crosses open start/end ranges stays, and they go.
        while stack and stack[-1][0] < end and not movable and free[stack[-1][1]]:
            out[stack.pop()[1]] = True
        if stack and stack[-1][0] < end:
            out[row] = True
        else:
            stack.append((end, row))
    return out


def innermost(forest: Forest, thread: Ints, start: Ints, end: Ints) -> Ints:
    """Return the innermost range of the trees around each call, -1 where there is none.

    Args:
        forest: the ranges.
        thread: int64 [m], thread of the call.
        start: int64 [m], ns.
        end: int64 [m], ns.

    Returns:
        int64 [m], rows of ``forest``.
    """
    found = np.full(len(thread), -1, np.int64)
    for rows, calls in shared(forest.thread, thread):
        tree = rows[~forest.crossing[rows]]
        if not len(tree):
            continue
        at = np.searchsorted(forest.start[tree], start[calls], side="right") - 1
        node = np.where(at >= 0, tree[at], -1)
        # The range that opened last before the call is the innermost one or, if it has closed by then, lies inside it.
        todo = np.flatnonzero((node >= 0) & (forest.end[node] < end[calls]))
        while len(todo):
            node[todo] = forest.parent[node[todo]]
            todo = todo[node[todo] >= 0]
            todo = todo[forest.end[node[todo]] < end[calls[todo]]]
        found[calls] = node
    return found


def crossing_pairs(forest: Forest, thread: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Return (call, range) for every call inside a crossing range; arguments as for ``innermost``."""
    crossing = np.flatnonzero(forest.crossing)
    none = np.zeros(0, np.int64)
    pairs = [(none, none)]  # concatenate needs at least one array
    for rows, calls in shared(forest.thread[crossing], thread):
        ranges = crossing[rows]
        # In order of start, the calls inside a crossing range are a run [first, last) without those that end after it.
        sorted_calls = calls[np.argsort(start[calls], kind="stable")]
        first = np.searchsorted(start[sorted_calls], forest.start[ranges], side="left")
        last = np.searchsorted(start[sorted_calls], forest.end[ranges], side="right")
        count = np.maximum(last - first, 0)
        call = sorted_calls[runs(first, count)]
        owner = np.repeat(ranges, count)
        inside = end[call] <= forest.end[owner]
        pairs.append((call[inside], owner[inside]))
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
