# SPDX-License-Identifier: Apache-2.0
"""Tables of any report: DataFrames in, HTML or text out."""

import pandas as pd

from moe_lab.pages.show.notes import Note, Nothing
from moe_lab.pages.show.tables import Column, Table

NONE = Nothing("No kernel carries data between GPUs, or their clocks do not compare.")
PARTS = {"kernel_sum_ms": "kernels", "busy_ms": "busy", "gap_ms": "gaps", "span_ms": "span"}
TIMES = {"median_us": "median", "min_us": "least", "max_us": "most"}


def kernels(frame: pd.DataFrame) -> Table:
    """Return kernels summed by name (``analysis.kernels.sums``)."""
    columns = [
        Column("name", "kernel", wrap=True),
        Column("launches", "launches"),
        Column("total_ms", "total", "ms", 3),
        Column("pct_of_kernels", "of kernels", "%", 1, bar=100.0),
        *(Column(key, label, "µs", 1, "one launch") for key, label in TIMES.items()),
    ]
    return Table(frame, columns)


def ranges(frame: pd.DataFrame) -> Table:
    """Return ranges with medians of an instance (``analysis.breakdown.breakdown``), indented by depth."""
    columns = [
        Column("name", "range", wrap=True),
        Column("instances", "instances"),
        Column("kernels", "kernels", digits=0),
        *(Column(key, label, "µs", 1, "one instance") for key, label in PARTS.items()),
        Column("pct_of_root", "of all", "%", 1, bar=100.0),
    ]
    return Table(frame.assign(**{key: 1000 * frame[key] for key in PARTS}), columns)


def devices(frame: pd.DataFrame) -> Table:
    """Return one row a GPU (``analysis.overview.devices``)."""
    columns = [
        Column("device", "GPU"),
        Column("kernels", "kernels"),
        *(Column(key, label, "ms", 3, "time") for key, label in PARTS.items()),
        Column("busy_pct", "busy", "%", 1, bar=100.0),
        Column("graph_pct", "by graphs", "% of kernels", 1, bar=100.0),
    ]
    return Table(frame, columns)


def communication(frame: pd.DataFrame) -> Table | Note:
    """Return the communication of each GPU (``analysis.overview.devices``), and how much of it nothing hides."""
    columns = [
        Column("device", "GPU"),
        Column("communication_ms", "communication", "ms", 3),
        Column("exposed_ms", "exposed", "ms", 3),
        Column("exposed_pct", "exposed", "% of the span", 1, bar=100.0),
    ]
    return Table(frame, columns) if frame["communication_ms"].any() else NONE


def arrivals(frame: pd.DataFrame) -> Table | Note:
    """Return which GPU comes last (``analysis.overview.arrivals``)."""
    columns = [
        Column("name", "kernel", wrap=True),
        Column("device", "GPU"),
        Column("times", "times"),
        Column("late_us", "median", "µs after the first", 1),
        Column("last_pct", "last", "% of times", 1, bar=100.0),
    ]
    return Table(frame, columns) if len(frame) else NONE


def sizes(frame: pd.DataFrame) -> Table:
    """Return how many gaps are of which size (``analysis.overview.gap_sizes``)."""
    where = frame["in_graph"].map({True: "within a launch of a graph", False: "between launches"})
    columns = [
        Column("size", "gap"),
        Column("where", "where"),
        Column("gaps", "gaps"),
        Column("total_ms", "total", "ms", 3),
    ]
    return Table(frame.assign(where=where), columns)


def gaps(frame: pd.DataFrame) -> Table:
    """Return the longest gaps (``analysis.overview.gaps``)."""
    columns = [
        Column("device", "GPU"),
        Column("gap_us", "gap", "µs", 1),
        Column("start_us", "from", "µs", 1),
        Column("before", "after this operation", wrap=True),
        Column("after", "before this operation", wrap=True),
    ]
    return Table(frame, columns)
