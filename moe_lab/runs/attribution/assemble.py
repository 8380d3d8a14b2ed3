# SPDX-License-Identifier: Apache-2.0
"""From what a parser has read (operations, API calls, ranges, graph nodes) to launches: shared by all formats."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.attribution import attribute, keys, replay
from moe_lab.runs.attribution.columns import integers, paths, strings
from moe_lab.runs.attribution.keys import Bools, Ints
from moe_lab.runs.attribution.replay import LOST, OUTSIDE, NodeEvents
from moe_lab.spec.launches import COLUMNS, RANGE_COLUMNS, Launches, tidy

KINDS = ["kernel", "memcpy", "memset"]
ATTRIBUTIONS = ["none", "api", "graph_launch", "graph_node"]
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Operations:
    """Operations on the GPU: int64 [n] each, -1 = not known.

    Attributes:
        start: ns.
        end: ns.
        process: any process id, the same as in calls, ranges and graph nodes.
        correlation: id shared with the API call that launched the operation, unique within a process.
        graph_node: node of the executable CUDA graph.
        kind: index into ``KINDS``.
        name: index into ``names``.
        full: index into ``fulls``.
        names: short names.
        fulls: full names.
        columns: further integer columns of ``launches.COLUMNS``; columns that are left out are NA.
        graph: bool [n], launched by a CUDA graph whose node is not known.
    """

    start: Ints
    end: Ints
    process: Ints
    correlation: Ints
    graph_node: Ints
    kind: Ints
    name: Ints
    full: Ints
    names: list[str]
    fulls: list[str]
    columns: dict[str, Ints]
    graph: Bools | bool = False


@dataclass(frozen=True)
class Calls:
    """API calls on the CPU: int64 [n] each; times in ns."""

    start: Ints
    end: Ints
    process: Ints
    thread: Ints
    correlation: Ints


@dataclass(frozen=True)
class Ranges:
    """Ranges on the CPU that begin and end on one thread.

    Attributes:
        start: int64 [n], ns.
        end: int64 [n], ns; smaller than ``start`` = still open.
        process: int64 [n].
        thread: int64 [n], thread id, unique over all processes.
        free: bool [n], may overlap others freely (start/end ranges).
        name: int64 [n], index into ``names``.
        domain: int64 [n], index into ``domains``; -1 = the default domain.
        row: int64 [n], row in the report.
        names: names as shown.
        domains: names of the domains.
    """

    start: Ints
    end: Ints
    process: Ints
    thread: Ints
    free: Bools
    name: Ints
    domain: Ints
    row: Ints
    names: list[str]
    domains: list[str]

    def take(self, rows: Ints) -> "Ranges":
        """Return some rows."""
        arrays = ("start", "end", "process", "thread", "free", "name", "domain", "row")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})


NO_CALLS = Calls(NONE, NONE, NONE, NONE, NONE)
NO_RANGES = Ranges(NONE, NONE, NONE, NONE, NONE.astype(bool), NONE, NONE, NONE, [], [])


def assemble(
    ops: Operations, calls: Calls, ranges: Ranges, nodes: NodeEvents | None, meta: dict[str, Any], lost: str = LOST
) -> Launches:
    """Attribute every operation and return the tidy tables.

    Args:
        ops: the operations.
        calls: the API calls; those that launched nothing may be left out.
        ranges: the ranges, in any order.
        nodes: creations and clones of CUDA graph nodes, None = not in the report.
        meta: facts of the report; sentences on what could not be attributed are added to ``meta["warnings"]``.
        lost: the warning about graph operations whose capture is not in the report; empty = no warning.
    """
    ranges = _close(ranges, ops, calls, meta["warnings"])
    ranges = ranges.take(attribute.order(ranges.thread, ranges.start, ranges.end))
    forest = attribute.nest(ranges.thread, ranges.start, ranges.end, ranges.free)
    # From here on only operations with a known call are looked up; the others keep -1 and count as not attributed.
    call = keys.match(ops.process, ops.correlation, calls.process, calls.correlation)
    called = np.flatnonzero(call >= 0)
    where = calls.thread[call[called]], calls.start[call[called]], calls.end[call[called]]
    launch = np.full(len(call), -1, np.int64)
    launch[called] = attribute.innermost(forest, *where)
    # Ranges that overlap without nesting are in no tree: an operation may lie in several, so these are pairs.
    member, crossing = attribute.crossing_pairs(forest, *where)
    # The time at which a graph was launched, not at which its kernel ran: by then a node id may have been reused.
    when = ops.start.copy()
    when[called] = where[1]
    capture, unknown = _captured(ops, when, nodes, forest)
    graph = (ops.graph_node >= 0) | ops.graph
    if unknown and lost:
        meta["warnings"].append(lost.format(lost=unknown, graph=int(graph.sum())))
    # Captured while tracing, but in no range: this needs another remedy than a capture before tracing began.
    outside = int((graph & (capture < 0)).sum()) - unknown
    if outside and lost and len(ranges.start):
        meta["warnings"].append(OUTSIDE.format(outside=outside, graph=int(graph.sum())))
    made, range_id = _replayed(ops, ranges, forest, launch, capture)
    # Indices into ATTRIBUTIONS: no range at all, else the stage of the capture, the replay only, or the plain call.
    how = np.where(range_id < 0, 0, np.where(capture >= 0, 3, np.where(graph, 2, 1)))
    if len(called) < len(call):
        uncalled = f"{len(call) - len(called)} of {len(call)} GPU operations"
        meta["warnings"].append(f"{uncalled} have no API call in the report, so no launch range.")
    # Processes are renumbered from 0, so that the tables of two captures of one program are alike.
    processes = np.unique(np.concatenate([ops.process[ops.process != -1], ranges.process]))
    meta["processes"] = len(processes)
    found = {"range_id": range_id, "launch_range_id": launch, "capture_range_id": capture}
    pairs = pd.DataFrame({"operation": called[member], "range_id": crossing})
    return Launches(_table(ops, processes, how, found), _ranges(ranges, processes, forest, made), meta, pairs)


def _close(ranges: Ranges, ops: Operations, calls: Calls, warnings: list[str]) -> Ranges:
    """End open ranges at the last timestamp of the report."""
    # nsys leaves the end of an open range out; parsers then pass -1, which is smaller than any start.
    still_open = ranges.end < ranges.start
    if not still_open.any():
        return ranges
    last = max(int(a.max()) for a in (ops.end, calls.end, ranges.end, ranges.start) if len(a))
    warnings.append(f"{int(still_open.sum())} ranges were still open when tracing stopped; they end with the report.")
    return replace(ranges, end=np.where(still_open, last, ranges.end))


def _captured(ops: Operations, when: Ints, nodes: NodeEvents | None, forest: attribute.Forest) -> tuple[Ints, int]:
    """Return (innermost range around the capture of each operation's node, -1 = none; number of unknown captures)."""
    capture = np.full(len(when), -1, np.int64)
    # A node is created on the CPU, by the capturing thread: its ranges are found as those of a call of no length.
    graph = np.flatnonzero(ops.graph_node >= 0)
    event = np.full(len(graph), -1, np.int64)
    if nodes is not None:
        event = replay.creations(ops.process[graph], ops.graph_node[graph], when[graph], nodes)
        known = event >= 0
        at = event[known]
        capture[graph[known]] = attribute.innermost(forest, nodes.thread[at], nodes.start[at], nodes.start[at])
    bare = ops.graph & (ops.graph_node < 0)
    return capture, int((event < 0).sum()) + int(np.sum(bare))


def _replayed(
    ops: Operations, ranges: Ranges, forest: attribute.Forest, launch: Ints, capture: Ints
) -> tuple[replay.Replayed, Ints]:
    """Return (ranges made for replays, range of every operation)."""
    known = np.flatnonzero(capture >= 0)
    # All kernels of one graph launch carry the same correlation id.
    number = keys.distinct(ops.process[known], ops.correlation[known])[1]
    made = replay.combine(forest.parent, forest.depth, ranges.name, launch[known], capture[known], number)
    range_id = launch.copy()
    range_id[known] = made.range_id
    return made, range_id


def _table(ops: Operations, processes: Ints, how: Ints, found: dict[str, Ints]) -> pd.DataFrame:
    """Return the table of launches; ``found`` holds the columns of range ids: int64 [n] each, -1 = none."""
    never_missing = np.zeros(len(ops.start), bool)  # by default `integers` makes negative values NA
    out: dict[str, Any] = {
        "kind": strings(ops.kind, KINDS),
        "name": strings(ops.name, ops.names),
        "name_full": strings(ops.full, ops.fulls),
        "attribution": strings(how, ATTRIBUTIONS),
        "start_ns": integers(ops.start, never_missing),
        "end_ns": integers(ops.end, never_missing),
        "duration_ns": integers(ops.end - ops.start, never_missing),
        # searchsorted maps the unknown process (-1) to 0, which is a real one, hence the mask.
        "process": integers(np.searchsorted(processes, ops.process), ops.process == -1),
        "correlation": integers(ops.correlation),
        "graph_node": integers(ops.graph_node),
        **{name: integers(values) for name, values in {**found, **ops.columns}.items()},
    }
    for product, axes in (("grid_blocks", "grid_"), ("block_threads", "block_")):
        sizes = [ops.columns[axes + axis] for axis in "xyz" if axes + axis in ops.columns]
        if len(sizes) == 3:
            x, y, z = sizes  # in a damaged report their product may wrap round to a plausible number
            out[product] = integers(
                np.where((x < 0) | (y < 0) | (z < 0) | (x.astype(float) * y * z >= 2**62), -1, x * y * z)
            )
    return tidy(pd.DataFrame(out, copy=False), COLUMNS)  # the columns are ours, and may have millions of rows


def _ranges(ranges: Ranges, processes: Ints, forest: attribute.Forest, made: replay.Replayed) -> pd.DataFrame:
    """Return the table of ranges: first the real ones, then those made for replays."""
    real = len(ranges.start)
    parent, depth = np.concatenate([forest.parent, made.parent]), np.concatenate([forest.depth, made.depth])
    # A range made for a replay takes its name, domain and process from the captured range that it stands for.
    row = np.concatenate([np.arange(real), made.source])
    name = ranges.name[row]
    synthetic = np.arange(len(row)) >= real  # these have a name and a place in the tree, but no time on the CPU
    path, values, _ = paths(parent, depth, name, ranges.names)
    thread = np.unique(ranges.thread, return_inverse=True)[1].ravel()
    frame = {
        "name": strings(name, ranges.names),
        "path": strings(path, values),
        "parent_id": integers(parent),
        "depth": integers(depth),
        "domain": strings(ranges.domain[row], ranges.domains),
        "process": integers(np.searchsorted(processes, ranges.process[row])),
        "thread": integers(thread[row], synthetic),
        "start_ns": integers(ranges.start[row], synthetic),
        "end_ns": integers(ranges.end[row], synthetic),
        "synthetic": pd.array(synthetic, dtype="boolean"),
        "crossing": pd.array(np.concatenate([forest.crossing, np.zeros(len(made.source), bool)]), dtype="boolean"),
        "report_row": integers(ranges.row[row], synthetic),
    }
    return tidy(pd.DataFrame(frame, copy=False), RANGE_COLUMNS)
