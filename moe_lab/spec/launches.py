"""The tidy schema that every parser fills and every analysis reads: one row per operation on the GPU."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

# name -> (dtype, what it is). NA where the report does not say; never 0.
COLUMNS: dict[str, tuple[str, str]] = {
    "kind": ("string", "kernel, memcpy or memset"),
    "name": ("string", "short kernel name; for copies the direction"),
    "name_full": ("string", "demangled kernel name"),
    "start_ns": ("Int64", "start on the device, ns since the report's origin"),
    "end_ns": ("Int64", "end on the device, ns"),
    "duration_ns": ("Int64", "end_ns - start_ns"),
    "process": ("Int64", "number of the process in the report, from 0"),
    "rank": ("Int64", "rank of the process in a group of several; NA = not known"),
    "device": ("Int64", "device id"),
    "stream": ("Int64", "stream id"),
    "correlation": ("Int64", "correlation id, unique within a process"),
    "grid_x": ("Int64", "thread blocks in x"),
    "grid_y": ("Int64", "thread blocks in y"),
    "grid_z": ("Int64", "thread blocks in z"),
    "block_x": ("Int64", "threads a block in x"),
    "block_y": ("Int64", "threads a block in y"),
    "block_z": ("Int64", "threads a block in z"),
    "grid_blocks": ("Int64", "thread blocks of the launch"),
    "block_threads": ("Int64", "threads of a block"),
    "registers_per_thread": ("Int64", "registers a thread"),
    "smem_static_bytes": ("Int64", "static shared memory a block"),
    "smem_dynamic_bytes": ("Int64", "dynamic shared memory a block"),
    "bytes": ("Int64", "bytes moved by a memcpy or memset"),
    "graph_node": ("Int64", "node of the executable CUDA graph that launched it"),
    "range_id": ("Int64", "innermost range it belongs to: an index into `ranges`; NA = unattributed"),
    "launch_range_id": ("Int64", "innermost range around the API call that launched it (for a graph: the replay)"),
    "capture_range_id": ("Int64", "innermost range in which its graph node was captured; NA outside graphs"),
    "attribution": ("string", "api, graph_node (capture-time stage), graph_launch (replay only) or none"),
}

# Index = range_id. A kernel of a graph replay lies in a synthetic range: its capture-time ranges, an instance a replay.
RANGE_COLUMNS: dict[str, tuple[str, str]] = {
    "name": ("string", "range name as shown (module path for layer-wise markers)"),
    "path": ("string", "names from the outermost range down, joined with '/'"),
    "parent_id": ("Int64", "enclosing range; NA at the top"),
    "depth": ("Int64", "0 at the top"),
    "domain": ("string", "NVTX domain; NA for the default one"),
    "process": ("Int64", "number of the process in the report"),
    "thread": ("Int64", "number of the thread in the report; NA for synthetic ranges"),
    "start_ns": ("Int64", "start on the CPU, ns; NA for synthetic ranges"),
    "end_ns": ("Int64", "end on the CPU, ns; NA for synthetic ranges"),
    "synthetic": ("boolean", "True when made from capture-time ranges of a CUDA graph"),
    "crossing": (
        "boolean",
        "True when it overlaps another range of its thread without nesting: outside the tree, see `memberships`",
    ),
}


def no_memberships() -> pd.DataFrame:
    """Return the empty table of memberships."""
    return pd.DataFrame({"operation": pd.Series(dtype="int64"), "range_id": pd.Series(dtype="int64")})


@dataclass(frozen=True)
class Launches:
    """What a parser returns.

    Attributes:
        table: one row per operation, columns as in ``COLUMNS``; parsers of counters append metric columns.
        ranges: one row per range instance, columns as in ``RANGE_COLUMNS``, index = range_id, parents before children.
        meta: plain facts of the report: tool, schema, gpu (name, sm_count), graph_mode, warnings (list of sentences).
        memberships: int64 columns operation (row of ``table``) and range_id, one row for every operation inside a
            crossing range; an operation's other ranges are ``range_id`` and its parents.
    """

    table: pd.DataFrame
    ranges: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)
    memberships: pd.DataFrame = field(default_factory=no_memberships)


def tidy(frame: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Return ``frame`` with every column of the schema, in its dtype and order; absent ones are NA, others follow."""
    out = {}
    dtype: Any
    for name, (dtype, _) in columns.items():
        out[name] = frame[name].astype(dtype) if name in frame else pd.Series(pd.NA, index=frame.index, dtype=dtype)
    extra = {name: frame[name] for name in frame.columns if name not in columns}
    return pd.DataFrame({**out, **extra}, index=frame.index, copy=False)
