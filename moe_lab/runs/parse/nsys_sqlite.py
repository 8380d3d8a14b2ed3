# SPDX-License-Identifier: Apache-2.0
"""Nsight Systems: an SQLite export, of any version from 2022.4 on, to launches."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_lab.runs.attribution.assemble import NO_CALLS, NO_RANGES, Calls, Operations, Ranges, assemble
from moe_lab.runs.attribution.keys import Bools, Ints, match
from moe_lab.runs.parse import _doubts
from moe_lab.runs.parse._sqlite import MAGIC, Database, open_database, reading
from moe_lab.runs.parse.nsys import meta as nsys_meta
from moe_lab.runs.parse.nsys import named, tables
from moe_lab.runs.parse.nsys.slim import slim as slim
from moe_lab.runs.parse.rocprof.rocpd import is_database
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

INFO = {
    "about": "SQLite export of Nsight Systems (nsys export --type=sqlite)",
    "report": "report.sqlite",
    "options": ["allow_graph_level"],
}
READ = (
    *("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET", "StringIds"),
    *("CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS", "CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"),
)


def sniff(path: Path) -> bool:
    """Return whether this is an SQLite file but not AMD's, or is named .sqlite: ``parse`` says best what is wrong."""
    with path.open("rb") as file:
        return path.suffix == ".sqlite" or (file.read(16) == MAGIC and not is_database(path))


def parse(path: Path, *, allow_graph_level: bool = False) -> Launches:
    """Read an SQLite export of Nsight Systems.

    Args:
        path: the export.
        allow_graph_level: also read a report whose graph replays were recorded without their kernels. All that ran
            inside a replay is then missing from every number; by default such a report is refused.

    Where a program calls cudaProfilerStart, an extra column ``in_window`` says what it launched from there to Stop,
    unless that is everything.

    Raises:
        UserError: it is not such a file, is truncated, lacks columns or kernels, or is a graph-level trace.
    """
    with reading(Path(path)):
        return _parse(open_database(Path(path)), allow_graph_level)


def _parse(database: Database, allow_graph_level: bool) -> Launches:
    meta = nsys_meta.facts(database)
    with ThreadPoolExecutor(2) as pool:  # SQLite and Arrow release the interpreter lock
        checking = pool.submit(database.check, *map(database.table, READ))
        reading_calls = pool.submit(tables.calls, database, meta["warnings"])
        ops = tables.operations(database)
        found = tables.ranges(database, meta["warnings"])
        calls = reading_calls.result()
        checking.result()
    if not (ops.kind == 0).any():
        raise UserError(
            f"{database.path.name} contains no GPU kernels; capture with `--trace=cuda,nvtx` and make sure that the "
            "profiled part of the program runs on the GPU."
        )
    meta["warnings"] += _doubts.negative(ops)
    if (ops.process == -1).all():
        ops = _only_process(database, ops, calls)
    graphs = named.graph_launches(database)
    _check_graphs(database, ops, graphs, meta, allow_graph_level)
    if len(graphs[0]):
        ops = replace(ops, graph=match(ops.process, ops.correlation, *graphs) >= 0)
    nodes = tables.nodes(database) if (ops.graph_node >= 0).any() else None
    launches = assemble(ops, calls or NO_CALLS, _usable(found, meta["warnings"]), nodes, meta)
    inside = _in_window(ops, calls or NO_CALLS, named.windows(database))
    return launches if inside.all() else replace(launches, table=launches.table.assign(in_window=inside))


def _in_window(ops: Operations, calls: Calls, windows: list[tuple[int, int, int]]) -> Bools:
    """Return which operations were launched in a window of their process, or by a process that has none: bool [n]."""
    inside: Bools = ~np.isin(ops.process, [process for process, _, _ in windows])
    if windows:
        call = match(ops.process, ops.correlation, calls.process, calls.correlation)
        at = ops.start.copy()
        at[call >= 0] = calls.start[call[call >= 0]]
        for process, start, end in windows:
            inside |= (ops.process == process) & (at >= start) & (at <= end)
    return inside


def _check_graphs(
    database: Database, ops: Operations, launches: tuple[Ints, Ints], meta: dict[str, Any], allow: bool
) -> None:
    """Refuse a report that lacks the kernels of its graph replays, and warn of launches that have none."""
    replays = nsys_meta.graph_level_replays(database)
    count = max(len(launches[0]), replays)
    graph_level = replays > 0 or ("Graph" in (meta["graph_mode"] or "") and not (ops.graph_node >= 0).any())
    if count and graph_level and not allow:
        raise UserError(
            f"{database.path.name} has {count} CUDA graph launches but not the kernels inside them (graph-level trace, "
            "the default of nsys); capture again with `--cuda-graph-trace=node`."
        )
    bare = count
    if count and not graph_level:
        bare = int((match(*launches, ops.process, ops.correlation) < 0).sum())
    if bare:
        then = "capture with --cuda-graph-trace=node to have them"
        meta["warnings"].append(_doubts.without_kernels(bare, "CUDA", then))


def _usable(found: tuple[Ranges, int] | None, warnings: list[str]) -> Ranges:
    """Return the ranges, and warn of what is missing."""
    if found is None:
        warnings.append("The report has no NVTX ranges: every kernel is unattributed; capture with --trace=cuda,nvtx.")
        return NO_RANGES
    ranges, elsewhere = found
    if elsewhere:
        warnings.append(f"{elsewhere} start/end ranges end on another thread than they began on; they are left out.")
    return ranges


def _only_process(database: Database, ops: Operations, calls: Calls | None) -> Operations:
    """Fill in the process of operations whose schema does not state it, which works if there is only one process."""
    processes = np.unique(calls.process) if calls else np.zeros(0, np.int64)
    if len(processes) > 1:
        # Raises: the missing column cannot be replaced.
        database.columns(database.table("CUPTI_ACTIVITY_KIND_KERNEL") or "", ("globalPid",))
    ops.process[:] = processes[0] if len(processes) else -1
    return ops
