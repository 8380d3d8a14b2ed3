# SPDX-License-Identifier: Apache-2.0
"""Operations, calls and ranges of a torch.profiler trace, joined for attribution."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from moe_lab.runs.attribution.assemble import KINDS, Calls, Operations, Ranges
from moe_lab.runs.attribution.columns import numbered
from moe_lab.runs.attribution.keys import Ints, distinct, match
from moe_lab.runs.parse._facts import short_name
from moe_lab.runs.parse.kineto import events
from moe_lab.runs.parse.kineto.ranks import owners

FIRST_PID = 1001  # above any device number: GPU events have their device in place of a pid


class Join:
    """Adds what the trace leaves open: the process of operations, and numbers for threads.

    Attributes:
        operation: columns of kernels, then memcpys, then memsets: int64 [n] each.
        process: int64 [n], pid of each operation; -1 = not known.
        owners: the processes of the operations, and how many could not be told.
        found: int64 [n], row of the call that launched each operation; -1 = not in the trace.
        stand_in: int64 [n], row of the operator that stands in for a missing call; -1 = none.
        graph: bool [n], launched by a CUDA graph.
        empty: int64 [k], rows of the calls that launched a graph none of whose operations are in the trace.
    """

    def __init__(self, tables: events.Tables) -> None:
        self.tables = tables
        parts = [t.arrays() for t in tables.operations]
        self.counts = [len(p["start"]) for p in parts]
        self.operation = {c: np.concatenate([p[c] for p in parts]) for c in parts[0]}
        self.call = tables.calls.arrays()
        self.operator = tables.operators.arrays()
        ranges = [t.arrays() for t in (tables.annotations, tables.modules)]
        self.owners = owners(self.operation, self.call, [*ranges, self.operator])
        self.process = self.owners.process
        self._by_operator()
        self.empty = self._empty()

    @property
    def renumber(self) -> bool:
        """Whether correlation ids do not tell which call launched what."""
        return bool(self.owners.shared or self.owners.repeated)

    def _by_operator(self) -> None:
        """Where a call is missing from the trace, let the operator that the operation is linked to stand in for it.

        Older Kineto does not record every kind of launch. An operator lies in the same ranges as what it launches.
        """
        op, call = self.operation, self.call
        self.found = match(self.process, op["correlation"], call["pid"], call["correlation"])
        # A 0 after the last call: operations without a call (-1) read it.
        graph = np.append(call["graph"], 0)
        self.stand_in = np.full(len(self.found), -1, np.int64)
        self.graph = (op["graph_node"] >= 0) | (graph[self.found] > 0)
        rows = np.flatnonzero((self.found < 0) & (op["correlation"] >= 0))
        owner = match(self.process[rows], op["external"][rows], self.operator["pid"], self.operator["external"])
        rows, owner = rows[owner >= 0], owner[owner >= 0]
        self.stand_in[rows] = owner
        # The operator becomes a call with the operation's own correlation id, so that all that follows finds it.
        extra = {c: self.operator[c][owner] for c in ("start", "end", "pid", "tid")}
        extra["correlation"] = op["correlation"][rows]
        self.call = {c: np.concatenate([call[c], extra[c]]) for c in extra}

    def _empty(self) -> Ints:
        calls = self.tables.calls.arrays()
        full = np.zeros(len(calls["start"]), bool)
        full[self.found[self.found >= 0]] = True
        # An id also found on an operation without a call did launch something; only its process is not known.
        known = np.isin(calls["correlation"], self.operation["correlation"][self.found < 0])
        return np.flatnonzero((calls["graph"] > 0) & ~full & ~known)

    def operations(self) -> Operations:
        """Return kernels, then memcpys, then memsets."""
        op = self.operation
        name, names = self._names(short_name, events.copy_name, events.copy_name)
        full, fulls = self._names(str, None, None)
        columns = {c: op[c] for c in ("device", "stream", "bytes", *events.GEOMETRY)}
        columns |= {"registers_per_thread": op["registers"], "smem_bytes": op["smem"]}
        kind = np.repeat(np.arange(len(KINDS)), self.counts)
        ids = (self.process, op["correlation"], op["graph_node"])
        return Operations(op["start"], op["end"], *ids, kind, name, full, names, fulls, columns, self.graph)

    def _names(self, *shown: Any) -> tuple[Ints, list[str]]:
        """Return (code, values) of names; ``shown`` has a function, None = no name, for each of the three kinds."""
        tables = self.tables.operations
        texts = (show(n) if show else None for table, show in zip(tables, shown, strict=True) for n in table.names)
        code, values = numbered(texts)
        return code[_name_of_row(tables)], values

    def calls(self) -> Calls:
        """Return the API calls, and operators that stand in for them."""
        call = self.call
        return Calls(call["start"], call["end"], call["pid"], self.numbers(call)["tid"], call["correlation"])

    def ranges(self) -> Ranges:
        """Return user annotations and module calls, or operators if there are neither."""
        tables = range_tables(self.tables)
        parts = [t.arrays() for t in tables]
        found = {c: np.concatenate([p[c] for p in parts]) for c in parts[0]}
        shown, names = numbered(events.range_name(n) for table in tables for n in table.names)
        name = shown[_name_of_row(tables)]
        none = np.full(len(found["start"]), -1, np.int64)
        free = np.zeros(len(none), bool)
        where = (found["pid"], self.numbers(found)["tid"], free)
        return Ranges(found["start"], found["end"], *where, name, none, found["row"], names, [])

    @cached_property
    def _threads(self) -> dict[str, Ints]:
        """Columns pid and tid of the distinct threads, in ascending order."""
        # A tid is unique only within its process. All tables are included, so that each pair gets one number.
        sources = (self.call, *(t.arrays() for t in (self.tables.annotations, self.tables.modules)), self.operator)
        all_of = {c: np.concatenate([s[c] for s in sources]) for c in ("pid", "tid")}
        first, _ = distinct(*all_of.values())
        return {c: values[first] for c, values in all_of.items()}

    def numbers(self, table: dict[str, Ints]) -> dict[str, Ints]:
        """Return numbers for processes and threads, in the order of their ids, so that they sort in the same order."""
        known = self._threads
        pids = np.unique(known["pid"])
        thread = np.searchsorted(np.rec.fromarrays([*known.values()]), np.rec.fromarrays([table["pid"], table["tid"]]))
        return {"pid": FIRST_PID + np.searchsorted(pids, table["pid"]), "tid": 1 + thread.astype(np.int64)}


def _name_of_row(tables: Sequence[events.Table]) -> Ints:
    """Return the name of every row of some tables, as an index into the names of all of them."""
    first = np.cumsum([0, *(len(table.names) for table in tables)])
    return np.concatenate([np.array(table.code, np.int64) + at for table, at in zip(tables, first, strict=False)])


def range_tables(tables: events.Tables) -> list[events.Table]:
    """Return the tables whose rows are the ranges: annotations and modules, or the operators if there are neither."""
    return [t for t in (tables.annotations, tables.modules) if len(t)] or [tables.operators]
