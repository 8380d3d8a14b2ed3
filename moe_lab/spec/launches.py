# SPDX-License-Identifier: Apache-2.0
"""The tidy schema that every parser fills and every analysis reads: one row per operation on the GPU."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from moe_lab.spec import schema

COLUMNS = schema.of("launches")  # NA where the report does not say; never 0
# Index = range_id. Kernels of a graph replay lie in synthetic ranges: those that were open when the graph was captured,
# with one instance per replay.
RANGE_COLUMNS = schema.of("ranges")


def no_memberships() -> pd.DataFrame:
    """Return the empty table of memberships."""
    return pd.DataFrame({"operation": pd.Series(dtype="int64"), "range_id": pd.Series(dtype="int64")})


@dataclass(frozen=True)
class Launches:
    """What a parser returns.

    Attributes:
        table: one row per operation, columns as in ``COLUMNS``; parsers of counters append metric columns.
        ranges: one row per range instance, columns as in ``RANGE_COLUMNS``, index = range_id, parents before children.
        meta: plain facts about the report: tool, schema, gpu (name, sm_count), graph_mode, warnings (list of sentences)
        memberships: int64 columns operation (row of ``table``) and range_id, one row for each operation in a range
            that crosses others instead of nesting; its nested ranges are ``range_id`` and the parents of that.
    """

    table: pd.DataFrame
    ranges: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)
    memberships: pd.DataFrame = field(default_factory=no_memberships)


def tidy(frame: pd.DataFrame, columns: dict[str, schema.Field]) -> pd.DataFrame:
    """Return ``frame`` with every column of the schema, in its dtype and order; absent ones are NA, others follow."""
    out = {}
    dtype: Any
    for name, column in columns.items():
        dtype = column.dtype
        out[name] = frame[name].astype(dtype) if name in frame else pd.Series(pd.NA, index=frame.index, dtype=dtype)
    extra = {name: frame[name] for name in frame.columns if name not in columns}
    return pd.DataFrame({**out, **extra}, index=frame.index, copy=False)
