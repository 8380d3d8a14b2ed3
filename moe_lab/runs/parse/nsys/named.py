# SPDX-License-Identifier: Apache-2.0
"""API calls of an Nsight Systems export that are found by name: launches of graphs, and Start and Stop of profilers."""

from moe_lab.runs.attribution.assemble import NONE
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.parse._sqlite import Database
from moe_lab.runs.parse.nsys.tables import PID, ints

# SQL conditions on the name.
GRAPH_LAUNCH = "value GLOB 'cudaGraphLaunch*' OR value GLOB 'cuGraphLaunch*'"
START = "value GLOB 'cudaProfilerStart*' OR value GLOB 'cuProfilerStart*'"
STOP = "value GLOB 'cudaProfilerStop*' OR value GLOB 'cuProfilerStop*'"


def graph_launches(database: Database) -> tuple[Ints, Ints]:
    """Return (process, correlation) of the calls that launched a CUDA graph."""
    thread, correlation = _named_calls(database, GRAPH_LAUNCH, ("globalTid", "correlationId"))
    return thread & PID, correlation


def windows(database: Database) -> list[tuple[int, int, int]]:
    """Return (process, start, end) of each time between a call of cudaProfilerStart and the next of Stop, in ns.

    Without such a Stop the window has no end. A Stop without a Start opens none: nsys itself may have begun there.
    """
    started, stopped = (_named_calls(database, names, ("globalTid", "start")) for names in (START, STOP))
    calls = [(int(at), int(thread) & PID, True) for thread, at in zip(*started, strict=True)]
    calls += [(int(at), int(thread) & PID, False) for thread, at in zip(*stopped, strict=True)]
    began: dict[int, int] = {}
    found = []
    for at, process, starts in sorted(calls):
        if starts:
            began.setdefault(process, at)
        elif process in began:
            found.append((process, began.pop(process), at))
    return found + [(process, at, 2**63 - 1) for process, at in began.items()]


def _named_calls(database: Database, names: str, columns: tuple[str, str]) -> tuple[Ints, Ints]:
    """Return two columns of the API calls whose name meets an SQL condition on ``value``."""
    table, strings = database.table("CUPTI_ACTIVITY_KIND_RUNTIME"), database.table("StringIds")
    if not table or not strings or "nameId" not in database.tables[table]:
        return NONE, NONE
    database.columns(strings, ("id", "value"))
    ids = [i for (i,) in database.rows(f'SELECT id FROM "{strings}" WHERE {names}') if isinstance(i, int)]
    if not ids:
        return NONE, NONE
    first, second = database.read(table, columns, where=f'"nameId" IN ({", ".join(map(str, ids))})').columns
    return ints(first), ints(second)
