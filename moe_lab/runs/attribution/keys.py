# SPDX-License-Identifier: Apache-2.0
"""Group, number and join rows by arrays of ids, without a loop over rows and without a quadratic step.

Arrays are int64; a row is named by its number, -1 means none.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DENSE = 8  # slots per row that a lookup table may have before sorting is cheaper


def match(process: Ints, correlation: Ints, call_process: Ints, call_correlation: Ints) -> Ints:
    """Return the API call of each operation: the first one of its process and correlation id, -1 where there is none.

    Args:
        process: int64 [n], process id of the operations.
        correlation: int64 [n], unique only within a process; negative = unknown.
        call_process: int64 [m], process id of the calls, in the same numbering.
        call_correlation: int64 [m].
    """
    found = np.full(len(process), -1, np.int64)
    for calls, rows in shared(call_process, process):  # two processes use the same ids, so one process at a time
        known = rows[correlation[rows] >= 0]
        if not len(known):
            continue
        low, high = int(correlation[known].min()), int(correlation[known].max())
        ids = call_correlation[calls]
        used = (ids >= low) & (ids <= high)  # most API calls launch nothing and can be dropped here
        calls, ids = calls[used], ids[used]
        if high - low < DENSE * (len(known) + len(calls)) + 1024:
            # Profilers count correlation ids up, so a table indexed by them is small, and many times as fast as a sort.
            # It is filled backwards: where an id repeats, its first call is written last and stays.
            slots = np.full(high - low + 1, -1, np.int64)
            slots[ids[::-1] - low] = calls[::-1]
            found[known] = slots[correlation[known] - low]
        elif len(calls):
            by_id = np.argsort(ids, kind="stable")
            at = np.minimum(np.searchsorted(ids[by_id], correlation[known]), len(by_id) - 1)
            same = ids[by_id][at] == correlation[known]
            found[known[same]] = calls[by_id][at[same]]
    return found


def runs(first: Ints, count: Ints) -> Ints:
    """Return ``first[0], first[0] + 1, ...`` (``count[0]`` of them), then the run of ``first[1]``, and so on.

    ``first`` and ``count`` (>= 0) are int64 [n], the result is int64 [sum of count].
    """
    found: Ints = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
    return found


def groups(key: Ints) -> list[Ints]:
    """Return the rows of each distinct key, keys in ascending order; the rows of a key keep their order."""
    if not len(key):
        return []
    values = np.sort(pd.unique(key))  # unique by hashing: there are few values among millions of rows
    if len(values) == 1:
        return [np.arange(len(key))]
    code = np.searchsorted(values, key)
    # numpy sorts 16 bits by radix, many times as fast as 64 bits.
    by_key = np.argsort(code.astype(np.uint16) if len(values) < 65536 else code, kind="stable")
    return np.split(by_key, np.cumsum(np.bincount(code))[:-1])


def shared(left: Ints, right: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield (rows of ``left``, rows of ``right``) for every key that both have."""
    # Each side is grouped once: one mask per key would be quadratic where there are as many keys as rows.
    of_right = {int(right[rows[0]]): rows for rows in groups(right)}
    for rows in groups(left):
        other = of_right.get(int(left[rows[0]]))
        if other is not None:
            yield rows, other


def distinct(*columns: Ints) -> tuple[Ints, Ints]:
    """Number the distinct rows of some columns.

    Returns:
        (first, code): the first row of each distinct combination, combinations in ascending order; and for every row
        the number of its combination.
    """
    # The columns of a row become the digits of one number, so that one sort of integers replaces a sort of tuples:
    # a million rows then take a tenth of a second. The number must not overflow 64 bits.
    packed = np.zeros(len(columns[0]), np.int64)
    size = 1
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        if high - low >= 4 * len(column) + 1024:  # sparse (addresses, packed thread ids): ranks take fewer bits
            column = np.unique(column, return_inverse=True)[1].ravel().astype(np.int64)
            low, high = 0, int(column.max())
        if size * (high - low + 1) >= 2**62:  # no room for this digit: use ranks of what is packed so far
            packed = np.unique(packed, return_inverse=True)[1].ravel().astype(np.int64)
            size = int(packed.max()) + 1
        packed = packed * (high - low + 1) + (column - low)
        size *= high - low + 1
    _, first, code = np.unique(packed, return_index=True, return_inverse=True)
    return first.astype(np.int64), code.ravel().astype(np.int64)
