# SPDX-License-Identifier: Apache-2.0
"""numpy columns to and from pandas columns of the tidy schema, without a detour through floats or Python objects."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_lab.runs.attribution.keys import Bools, Ints, distinct


def integers(values: Ints, missing: Bools | None = None) -> "pd.Series[Any]":
    """Return an Int64 column; ``missing`` rows are NA, by default the negative ones."""
    mask = values < 0 if missing is None else missing
    return pd.Series(pd.arrays.IntegerArray(np.ascontiguousarray(values, np.int64), mask))


def strings(code: Ints, values: Sequence[str]) -> "pd.Series[Any]":
    """Return a string column: ``values[code]``, NA where the code is negative."""
    import pyarrow as pa

    # A million launches have some hundred names: Arrow picks them by index, without a Python string per row.
    indices = pa.array(code.astype(np.int32), mask=code < 0)
    column = pa.array(list(values), pa.large_string()).take(indices)
    result: pd.Series[Any] = column.to_pandas(types_mapper=lambda _: pd.StringDtype("pyarrow"))
    return result


def array(series: "pd.Series[Any]", missing: int = -1) -> Ints:
    """Return an Int64 column as int64, NA as ``missing``."""
    return np.asarray(series.to_numpy(dtype=np.int64, na_value=missing))


def in_lanes(table: pd.DataFrame, start: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return (rows, lane): the given rows of launches by stream and in order of time, and a number for each stream.

    ``start`` is that of every row of ``table``; one of equal start that comes first in ``rows`` stays first.
    """
    _, lane = distinct(*(array(table[name])[rows] for name in ("process", "device", "stream")))
    order = np.lexsort((start[rows], lane))
    return rows[order], lane[order]


def codes(series: "pd.Series[Any]") -> tuple[Ints, NDArray[np.object_]]:
    """Return (code, values) of a string column: a number for each distinct string, -1 for NA."""
    code, values = pd.factorize(series)
    return code.astype(np.int64), np.asarray(values, dtype=object)


def numbered(values: Iterable[str | None]) -> tuple[Ints, list[str]]:
    """Return (code, values) of texts: a number for each distinct one, in order of first appearance; -1 for None."""
    code, known = codes(pd.Series(list(values), dtype=object))
    return code, known.tolist()


def paths(parent: Ints, level: Ints, name: Ints, names: Sequence[str]) -> tuple[Ints, list[str], Ints]:
    """Join names with ``/``, from the top of each tree down.

    Args:
        parent: int64 [n], row of the parent; ignored at level 0.
        level: int64 [n], 0 at the top of a path; negative = leave out.
        name: int64 [n], index into ``names``.
        names: the names.

    Returns:
        (code [n], values, first): the path of each row, -1 for rows left out, and the first row of each path.
    """
    code = np.full(len(parent), -1, np.int64)
    values: list[str] = []
    firsts = [np.zeros(0, np.int64)]
    for depth in range(int(level.max(initial=-1)) + 1):
        rows = np.flatnonzero(level == depth)
        above = code[parent[rows]] if depth else np.full(len(rows), -1, np.int64)
        # A path is its parent's path plus a name, so each distinct path is joined once, however many ranges share it.
        first, which = distinct(above, name[rows])
        code[rows] = len(values) + which
        own = [names[n] for n in name[rows[first]].tolist()]
        values += [n if a < 0 else f"{values[a]}/{n}" for a, n in zip(above[first].tolist(), own, strict=True)]
        firsts.append(rows[first])
    return code, values, np.concatenate(firsts)
