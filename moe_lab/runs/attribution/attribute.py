"""Which range a GPU operation belongs to: the part that is the same for every profiler.

An operation belongs to a range if the API call that launched it lies inside the range on the same thread
(``range.start <= call.start and range.end >= call.end``): the definition of Nsight Systems' own projection reports.
Everything is arrays in, arrays out, ids are row numbers, -1 means none, and each step sorts or sweeps: no step is
quadratic and none loops over operations in Python. Times are integer nanoseconds; thread and process ids are 64-bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DENSE = 8  # a lookup table may have this many slots a row before sorting is cheaper


@dataclass(frozen=True)
class Forest:
    """Range instances as trees, one set of trees a thread.

    Rows are sorted by thread, then start, longest first, so parents come before children.

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
        thread: int64 [n], sorted as by ``order``, as are all others.
        start: int64 [n], ns.
        end: int64 [n], ns, ``end >= start``.
        free: bool [n], start/end ranges: where a thread's ranges cross, these leave the trees before push/pop
            ranges do.
    """
    parent = np.full(len(start), -1, np.int64)
    depth = np.zeros(len(start), np.int64)
    crossing = np.zeros(len(start), bool)
    # Half-open and never empty, so that ranges which only touch are siblings.
    opens, closes = 2 * start, 2 * end + (start == end)
    for rows in groups(thread):
        kept = rows
        nested = _nest_thread(opens[kept], closes[kept])
        if nested is None:  # some ranges cross: only what nests can be a tree, the others are found pair by pair
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

    The depth of an interval is how many earlier ones are still open when it opens; its parent is the last earlier one
    that is one level up. The first interval that crosses another one is always found by the comparison at the end,
    because up to it both statements hold.
    """
    # Opened before minus closed before: the intervals that are open at the moment.
    depth = np.arange(len(opens)) - np.searchsorted(np.sort(closes), opens, side="right")
    parent = np.full(len(opens), -1, np.int64)
    by_depth = np.argsort(depth, kind="stable")
    bounds = np.cumsum(np.bincount(depth)) if len(depth) else np.zeros(1, np.int64)
    for level in range(1, len(bounds)):
        above = by_depth[bounds[level - 2] if level > 1 else 0 : bounds[level - 1]]
        here = by_depth[bounds[level - 1] : bounds[level]]
        # Row numbers are in order of start, so the last row above that is smaller opened last.
        at = np.searchsorted(above, here) - 1
        if len(at) and at[0] < 0:  # nothing is open one level up, yet something is: it crosses
            return None
        parent[here] = above[at]
    inside = parent >= 0
    if (closes[parent[inside]] < closes[inside]).any():
        return None
    return parent, depth


def _untangle(opens: Ints, closes: Ints, free: Bools) -> Bools:
    """Return which intervals to take out so that the rest nest; free ones go first, then later ones.

    A plain loop: it runs only on threads whose ranges cross, which push/pop ranges of one domain never do.
    """
    out = np.zeros(len(opens), bool)
    stack: list[tuple[int, int]] = []
    for row, (start, end, movable) in enumerate(zip(opens.tolist(), closes.tolist(), free.tolist(), strict=True)):
        while stack and stack[-1][0] <= start:
            stack.pop()
        while stack and stack[-1][0] < end and not movable and free[stack[-1][1]]:
            out[stack.pop()[1]] = True
        if stack and stack[-1][0] < end:
            out[row] = True
        else:
            stack.append((end, row))
    return out


def innermost(forest: Forest, thread: Ints, start: Ints, end: Ints) -> Ints:
    """Return the innermost range of the trees around each call, -1 where none.

    Args:
        forest: the ranges.
        thread: int64 [m], thread of the call.
        start: int64 [m], ns.
        end: int64 [m], ns.

    Returns:
        int64 [m], rows of ``forest``.
    """
    found = np.full(len(thread), -1, np.int64)
    for rows, calls in _shared(forest.thread, thread):
        tree = rows[~forest.crossing[rows]]
        if not len(tree):
            continue
        at = np.searchsorted(forest.start[tree], start[calls], side="right") - 1
        node = np.where(at >= 0, tree[at], -1)
        # The range that opened last before the call is the innermost one or, if already closed, lies inside it.
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
    pairs: list[tuple[Ints, Ints]] = []
    for rows, calls in _shared(forest.thread[crossing], thread):
        ranges = crossing[rows]
        # A crossing range holds a run [first, last) of the calls in order of start, minus those that end after it.
        sorted_calls = calls[np.argsort(start[calls], kind="stable")]
        first = np.searchsorted(start[sorted_calls], forest.start[ranges], side="left")
        last = np.searchsorted(start[sorted_calls], forest.end[ranges], side="right")
        count = np.maximum(last - first, 0)
        call = sorted_calls[runs(first, count)]
        owner = np.repeat(ranges, count)
        inside = end[call] <= forest.end[owner]
        pairs.append((call[inside], owner[inside]))
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])


def runs(first: Ints, count: Ints) -> Ints:
    """Return ``first[0], first[0] + 1, ...`` (``count[0]`` of them), then the run of ``first[1]``, and so on.

    Args:
        first: int64 [n].
        count: int64 [n], >= 0.

    Returns:
        int64 [sum of count].
    """
    found: Ints = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
    return found


def match(process: Ints, correlation: Ints, call_process: Ints, call_correlation: Ints) -> Ints:
    """Return the API call of each operation: the first one with its process and correlation id, -1 where none.

    Args:
        process: int64 [n], process id of the operations.
        correlation: int64 [n], unique only within a process; negative = unknown.
        call_process: int64 [m], process id of the calls, in the same numbering.
        call_correlation: int64 [m].
    """
    found = np.full(len(process), -1, np.int64)
    for calls, rows in _shared(call_process, process):
        known = rows[correlation[rows] >= 0]
        if not len(known):
            continue
        low, high = int(correlation[known].min()), int(correlation[known].max())
        ids = call_correlation[calls]
        used = (ids >= low) & (ids <= high)  # most API calls launch nothing: they need not be looked at again
        calls, ids = calls[used], ids[used]
        if high - low < DENSE * (len(known) + len(calls)) + 1024:
            # A profiler counts correlation ids up, so a table that they index is small, and many times as fast as a
            # sort. Written backwards: where an id repeats, its first call is written last and stays.
            slots = np.full(high - low + 1, -1, np.int64)
            slots[ids[::-1] - low] = calls[::-1]
            found[known] = slots[correlation[known] - low]
        elif len(calls):
            by_id = np.argsort(ids, kind="stable")
            at = np.minimum(np.searchsorted(ids[by_id], correlation[known]), len(by_id) - 1)
            same = ids[by_id][at] == correlation[known]
            found[known[same]] = calls[by_id][at[same]]
    return found


def groups(key: Ints) -> list[Ints]:
    """Return the rows of each distinct key, in order of the key; rows keep their order."""
    if not len(key):
        return []
    values = np.sort(pd.unique(key))  # hashing: few values among millions of rows
    if len(values) == 1:
        return [np.arange(len(key))]
    code = np.searchsorted(values, key)
    by_key = np.argsort(code.astype(np.uint16) if len(values) < 65536 else code, kind="stable")  # 16 bits: radix sort
    return np.split(by_key, np.cumsum(np.bincount(code))[:-1])


def _shared(left: Ints, right: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield (rows of ``left``, rows of ``right``) for every key that both have."""
    of_right = {int(right[rows[0]]): rows for rows in groups(right)}
    for rows in groups(left):
        other = of_right.get(int(left[rows[0]]))
        if other is not None:
            yield rows, other


def distinct(*columns: Ints) -> tuple[Ints, Ints]:
    """Number the distinct rows of some columns.

    Returns:
        (first, code): the first row of each distinct one, in order of the columns, and for every row its number.
    """
    # The columns of a row become the digits of one number: one sort of integers instead of a sort of tuples, which is
    # what makes a million rows a matter of a tenth of a second. The number must not overflow 64 bits.
    packed = np.zeros(len(columns[0]), np.int64)
    size = 1
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        if high - low >= 4 * len(column) + 1024:  # sparse (addresses, packed thread ids): ranks take fewer bits
            column = np.unique(column, return_inverse=True)[1].ravel().astype(np.int64)
            low, high = 0, int(column.max())
        if size * (high - low + 1) >= 2**62:  # no room for this digit: rank what is packed, at most one value a row
            packed = np.unique(packed, return_inverse=True)[1].ravel().astype(np.int64)
            size = int(packed.max()) + 1
        packed = packed * (high - low + 1) + (column - low)
        size *= high - low + 1
    _, first, code = np.unique(packed, return_index=True, return_inverse=True)
    return first.astype(np.int64), code.ravel().astype(np.int64)
